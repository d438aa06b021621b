package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// setValue converts what a layer holds and sets the field. It returns what is
// wrong and how to mend it, or nothing; then the field keeps its default, so that
// one bad value does not make others look bad.
func setValue(f field, raw any) (reason string) {
	switch t := f.value.Addr().Interface().(type) {
	case *string:
		return set(t, raw, toText)
	case *int:
		return set(t, raw, toInt)
	case *float64:
		return set(t, raw, toFloat)
	case *Size:
		return set(t, raw, toSize)
	case *time.Duration:
		return set(t, raw, toDuration)
	case *[]string:
		return set(t, raw, toList)
	case *bool:
		return set(t, raw, toBool)
	case *Secret:
		return set(t, raw, toSecret)
	case *[]Secret:
		return set(t, raw, toSecrets)
	default:
		panic(fmt.Sprintf("config: key %s has a type that nothing can read: %T", f.path, t))
	}
}

func set[T any](target *T, raw any, convert func(any) (T, error)) (reason string) {
	value, err := convert(raw)
	if err != nil {
		return err.Error()
	}
	*target = value
	return ""
}

func toText(raw any) (string, error) {
	if s, ok := raw.(string); ok {
		return s, nil
	}
	// YAML reads 007 as 7 and 1e3 as 1000: only quotes keep what was meant.
	return "", errors.New("it must be text; put it in quotes")
}

func toBool(raw any) (bool, error) {
	switch v := raw.(type) {
	case bool:
		return v, nil
	case string:
		switch strings.ToLower(strings.TrimSpace(v)) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
	}
	return false, errors.New("it is not a yes or no; write true or false")
}

func toSecret(raw any) (Secret, error) {
	text, err := toText(raw)
	return NewSecret(text), err
}

func toInt(raw any) (int, error) {
	wrong := errors.New("it is not a whole number; write one such as 1000")
	switch v := raw.(type) {
	case int:
		return v, nil
	case float64:
		if v != math.Trunc(v) || math.Abs(v) >= 1<<53 {
			return 0, wrong
		}
		return int(v), nil
	case string:
		n, err := strconv.Atoi(strings.ReplaceAll(strings.TrimSpace(v), "_", ""))
		if err != nil {
			return 0, wrong
		}
		return n, nil
	default:
		return 0, wrong
	}
}

func toFloat(raw any) (float64, error) {
	wrong := errors.New("it is not a number; write one such as 0.01")
	switch v := raw.(type) {
	case int:
		return float64(v), nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return 0, wrong
		}
		return v, nil
	case string:
		n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
		if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
			return 0, wrong
		}
		return n, nil
	default:
		return 0, wrong
	}
}

func toSize(raw any) (Size, error) {
	switch v := raw.(type) {
	case int:
		return Size(v), nil
	case string:
		if s, err := ParseSize(v); err == nil {
			return s, nil
		}
	}
	return 0, errors.New("it is not a size; write a number and a unit, such as 512KiB, 64MiB or 4GiB")
}

func toDuration(raw any) (time.Duration, error) {
	switch v := raw.(type) {
	case int, float64:
		return 0, fmt.Errorf("the unit is missing; write for example %vs for seconds or %vm for minutes", v, v)
	case string:
		text := strings.TrimSpace(v)
		if d, err := time.ParseDuration(text); err == nil {
			return d, nil
		}
		if n, err := strconv.Atoi(text); err == nil {
			return toDuration(n)
		}
	}
	return 0, errors.New("it is not a duration; write numbers with units, such as 500ms, 30s, 2m or 1h30m")
}

// toList takes a YAML list, or one text: comma-separated, or a JSON list where a
// value has a comma in it.
func toList(raw any) ([]string, error) {
	wrong := errors.New("it is not a list of texts; write a YAML list, or values with commas between, or a JSON list such as [\"a\",\"b\"]")
	switch v := raw.(type) {
	case []any:
		if len(v) == 0 {
			return nil, nil
		}
		list := make([]string, len(v))
		for i, element := range v {
			s, ok := element.(string)
			if !ok {
				return nil, fmt.Errorf("its element %d must be text; put it in quotes", i+1)
			}
			list[i] = s
		}
		return list, nil
	case string:
		text := strings.TrimSpace(v)
		if text == "" {
			return nil, nil
		}
		if strings.HasPrefix(text, "[") {
			var list []string
			if json.Unmarshal([]byte(text), &list) != nil {
				return nil, wrong
			}
			return list, nil
		}
		list := strings.Split(text, ",")
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		return list, nil
	default:
		return nil, wrong
	}
}

func toSecrets(raw any) ([]Secret, error) {
	list, err := toList(raw)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, nil
	}
	secrets := make([]Secret, len(list))
	for i, s := range list {
		secrets[i] = NewSecret(s)
	}
	return secrets, nil
}
