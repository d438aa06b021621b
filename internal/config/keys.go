package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const envPrefix = "MILLRACE_"

// nameHole stands for the name in the path of a key beneath a map.
const nameHole = "<name>"

// envHole stands for it in the variable of such a key.
const envHole = "<NAME>"

// Key describes one configuration key, for the reference.
type Key struct {
	// Path is the key's full name, such as "http.listen". Beneath a map it has
	// "<name>" where the name goes.
	Path string
	// Env is the variable that sets the key; "<NAME>" where a name goes.
	Env string
	// Type is what a value looks like: text, number, size, duration, list…
	Type string
	// Unit is the unit of a plain number, empty otherwise.
	Unit string
	// Default is the value that holds when nothing sets the key, as one would
	// write it; empty text is "".
	Default string
	// Enum lists the allowed values, nil if they are not a fixed set.
	Enum []string
	// Min and Max are the inclusive bounds as text, empty where there is none.
	Min, Max string
	// Secret says that the value is never shown.
	Secret bool
	// Doc says what the key means.
	Doc string
}

// Group is a section of the configuration with its keys in order.
type Group struct {
	// Path is empty for the keys that stand at the top.
	Path string
	Doc  string
	Keys []Key
}

// Groups returns every key there is, by section.
func Groups() []Group {
	def := Default()
	groups := []Group{{}}
	at := map[string]int{"": 0}
	walkSchema(def, func(s section) {
		at[s.path] = len(groups)
		groups = append(groups, Group{Path: s.path, Doc: s.doc})
	}, func(f field) {
		parent := ""
		if i := strings.LastIndexByte(f.path, '.'); i >= 0 {
			parent = f.path[:i]
		}
		g := &groups[at[parent]]
		g.Keys = append(g.Keys, describe(f))
	})
	return slices.DeleteFunc(groups, func(g Group) bool { return len(g.Keys) == 0 })
}

// section is a struct inside Config, or a map of structs.
type section struct {
	path, doc string
}

// field is one leaf of Config: a value that one key sets.
type field struct {
	path  string
	tag   reflect.StructTag
	value reflect.Value // settable when the walk began at a pointer
}

func (f field) isSecret() bool {
	return f.value.Type() == reflect.TypeFor[Secret]() || f.value.Type() == reflect.TypeFor[[]Secret]()
}

func (f field) enum() []string {
	if e := f.tag.Get("enum"); e != "" {
		return strings.Split(e, "|")
	}
	return nil
}

// walkSchema visits every section and key there can be; a map is visited as if
// it had one element of name "<name>".
func walkSchema(cfg *Config, onSection func(section), onField func(field)) {
	var walk func(v reflect.Value, prefix string)
	walk = func(v reflect.Value, prefix string) {
		eachMember(v, prefix, func(f field) {
			doc := f.tag.Get("doc")
			switch kindOf(f.value) {
			case reflect.Struct:
				onSection(section{f.path, doc})
				walk(f.value, f.path)
			case reflect.Map:
				path := f.path + "." + nameHole
				onSection(section{path, doc})
				walk(newElement(f.value.Type().Elem()), path)
			default:
				onField(f)
			}
		})
	}
	walk(reflect.ValueOf(cfg).Elem(), "")
}

// walkValues visits every key that the configuration holds, those of the
// elements of maps included, sorted by name. Elements are copies: setting them
// has no effect.
func walkValues(cfg *Config, onField func(field)) {
	var walk func(v reflect.Value, prefix string)
	walk = func(v reflect.Value, prefix string) {
		eachMember(v, prefix, func(f field) {
			switch kindOf(f.value) {
			case reflect.Struct:
				walk(f.value, f.path)
			case reflect.Map:
				for _, name := range sortedNames(f.value) {
					walk(f.value.MapIndex(reflect.ValueOf(name)), f.path+"."+name)
				}
			default:
				onField(f)
			}
		})
	}
	walk(reflect.ValueOf(cfg).Elem(), "")
}

// kindOf returns the kind that matters here: a Secret is a value, though it is a
// struct to Go.
func kindOf(v reflect.Value) reflect.Kind {
	if v.Type() == reflect.TypeFor[Secret]() {
		return reflect.String
	}
	return v.Kind()
}

// eachMember calls visit for each member of a struct.
func eachMember(v reflect.Value, prefix string, visit func(field)) {
	t := v.Type()
	for i := range t.NumField() {
		path := t.Field(i).Tag.Get("key")
		if prefix != "" {
			path = prefix + "." + path
		}
		visit(field{path: path, tag: t.Field(i).Tag, value: v.Field(i)})
	}
}

func sortedNames(m reflect.Value) []string {
	names := make([]string, 0, m.Len())
	for _, k := range m.MapKeys() {
		names = append(names, k.String())
	}
	slices.Sort(names)
	return names
}

// newElement returns an element of a map, with its defaults, that can be set.
func newElement(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	if t == reflect.TypeFor[Hook]() {
		v.Set(reflect.ValueOf(defaultHook()))
	}
	return v
}

func describe(f field) Key {
	return Key{
		Path:    f.path,
		Env:     envName(f.path),
		Type:    typeName(f),
		Unit:    f.tag.Get("unit"),
		Default: formatValue(f),
		Enum:    f.enum(),
		Min:     f.tag.Get("min"),
		Max:     f.tag.Get("max"),
		Secret:  f.isSecret(),
		Doc:     f.tag.Get("doc"),
	}
}

func typeName(f field) string {
	switch f.value.Interface().(type) {
	case Size:
		return "size"
	case time.Duration:
		return "duration"
	case int:
		return "whole number"
	case float64:
		return "number"
	case bool:
		return "true or false"
	case []string, []Secret:
		return "list"
	default:
		return "text"
	}
}

// formatValue writes a field's value as one would write it in a file, secrets
// masked.
func formatValue(f field) string {
	switch v := f.value.Interface().(type) {
	case Size:
		return v.String()
	case time.Duration:
		return formatDuration(v)
	case int:
		return strconv.Itoa(v)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case bool:
		return strconv.FormatBool(v)
	case Secret:
		return v.String()
	case []string:
		return "[" + strings.Join(v, ", ") + "]"
	case []Secret:
		masked := make([]string, len(v))
		for i, s := range v {
			masked[i] = s.String()
		}
		return "[" + strings.Join(masked, ", ") + "]"
	case string:
		if v == "" {
			return `""`
		}
		return v
	default:
		panic(fmt.Sprintf("config: key %s has a type that nothing can write: %T", f.path, v))
	}
}

// envName returns the variable that sets a key.
func envName(path string) string {
	var b strings.Builder
	b.WriteString(envPrefix)
	for i, part := range strings.Split(path, ".") {
		if i > 0 {
			b.WriteString("__")
		}
		if part == nameHole {
			b.WriteString(envHole)
			continue
		}
		for j, r := range part {
			if unicode.IsUpper(r) && j > 0 {
				b.WriteByte('_')
			}
			b.WriteRune(unicode.ToUpper(r))
		}
	}
	return b.String()
}
