package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
	yamlv3 "go.yaml.in/yaml/v3"
)

// Flag is one value from the command line.
type Flag struct {
	// Name is what the user wrote, for messages: "--listen".
	Name string
	// Key is the path of the key it sets: "http.listen".
	Key string
	// Value is the value as text.
	Value string
}

// Variables that begin with MILLRACE_ but are no configuration keys: they serve
// the command line.
const (
	// EnvConfigFile names the configuration file when --config does not.
	EnvConfigFile = "MILLRACE_CONFIG"
	// EnvToken holds the credential of commands that call a server, so that it
	// need not stand in the list of processes.
	EnvToken = "MILLRACE_TOKEN"
)

// orchestratorEnv matches what Kubernetes (and Docker links) put into the
// environment for a service that happens to be called "millrace" or
// "millrace-…". They are not ours, and refusing them would keep the program from
// starting there. A test makes sure that no key's variable looks like that.
var orchestratorEnv = regexp.MustCompile(
	`^MILLRACE_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// layer is one source of values.
type layer struct {
	values *koanf.Koanf
	origin func(path string) string
}

// Load returns the effective configuration: defaults, then the YAML file (none
// if file is empty), then variables (in the form of os.Environ), then flags. The
// result is valid; otherwise the error is an *Error with every problem there is,
// or says that the file cannot be read.
func Load(file string, env []string, flags []Flag) (*Config, error) {
	var layers []layer
	var problems []Problem
	if file != "" {
		l, err := fileLayer(file)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	envLayer, envProblems := environmentLayer(env)
	problems = append(problems, envProblems...)
	layers = append(layers, envLayer)
	schema := newSchema()
	for _, f := range flags {
		if schema.isSecret(f.Key) {
			problems = append(problems, Problem{Key: f.Key, Origin: f.Name, Reason: "a secret does not belong on the command line, where every user of the machine sees it; set " +
				envName(f.Key) + ", or " + envName(f.Key) + "_FILE to a file with it"})
			continue
		}
		layers = append(layers, flagLayer(f))
	}

	merged := koanf.New(".")
	origins := map[string]string{}
	for _, l := range layers {
		for _, path := range l.values.Keys() {
			if isEmptySection(l.values.Get(path)) && schema.isSection(path) {
				l.values.Delete(path)
				continue
			}
			if reason := schema.unknown(path); reason != "" {
				problems = append(problems, Problem{Key: path, Origin: l.origin(path), Reason: reason})
				l.values.Delete(path)
				continue
			}
			origins[path] = l.origin(path)
		}
		if err := merged.Merge(l.values); err != nil {
			return nil, fmt.Errorf("merge configuration: %w", err)
		}
	}

	cfg := Default()
	problems = append(problems, decode(cfg, merged, origins)...)
	problems = append(problems, validationProblems(cfg, problems, origins)...)
	if len(problems) > 0 {
		return nil, &Error{Problems: problems}
	}
	return cfg, nil
}

// validationProblems validates what could be read, but says nothing more about
// keys that have a problem already.
func validationProblems(cfg *Config, known []Problem, origins map[string]string) []Problem {
	var invalid *Error
	if !errors.As(cfg.Validate(), &invalid) {
		return nil
	}
	out := invalid.Problems[:0]
	for _, p := range invalid.Problems {
		if slices.ContainsFunc(known, func(k Problem) bool { return k.Key == p.Key }) {
			continue
		}
		p.Origin = origins[p.Key]
		out = append(out, p)
	}
	return out
}

func isEmptySection(v any) bool {
	m, isMap := v.(map[string]any)
	return v == nil || isMap && len(m) == 0
}

// mapLayer makes a layer of nested or flat values.
func mapLayer(values map[string]any, origin func(string) string) (layer, error) {
	k := koanf.New(".")
	if err := k.Load(confmap.Provider(values, "."), nil); err != nil {
		return layer{}, err
	}
	return layer{values: k, origin: origin}, nil
}

func fileLayer(file string) (layer, error) {
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return layer{}, fmt.Errorf("configuration file %s does not exist: create it (`millrace config show` prints one to begin with) or leave out --config", file)
	case err != nil:
		return layer{}, fmt.Errorf("configuration file cannot be read: %w; check the path and its permissions", err)
	}
	values, err := yaml.Parser().Unmarshal(text)
	if err != nil {
		return layer{}, fmt.Errorf("configuration file %s is not valid YAML: %w; mend it there", file, yamlReason(err))
	}
	lines := yamlLines(text)
	base := filepath.Base(file)
	l, err := mapLayer(values, func(path string) string {
		if line := lines[path]; line > 0 {
			return fmt.Sprintf("%s:%d", base, line)
		}
		return base
	})
	if err != nil {
		return layer{}, fmt.Errorf("configuration file %s: %w", file, err)
	}
	return l, nil
}

// yamlReason drops what only a Go programmer would understand.
func yamlReason(err error) error {
	var typeError *yamlv3.TypeError
	if errors.As(err, &typeError) {
		for _, e := range typeError.Errors {
			if strings.Contains(e, "into map[string]interface") {
				return errors.New("it must be keys with values, such as `data: ./millrace-data`")
			}
		}
	}
	return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
}

// yamlLines returns the line of each key in a file that parses.
func yamlLines(text []byte) map[string]int {
	lines := map[string]int{}
	var walk func(n *yamlv3.Node, prefix string)
	walk = func(n *yamlv3.Node, prefix string) {
		if n.Kind != yamlv3.MappingNode {
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			path := prefix + n.Content[i].Value
			lines[path] = n.Content[i].Line
			walk(n.Content[i+1], path+".")
		}
	}
	var doc yamlv3.Node
	if yamlv3.Unmarshal(text, &doc) == nil && len(doc.Content) == 1 {
		walk(doc.Content[0], "")
	}
	return lines
}

// environmentLayer takes the variables that are ours. A variable that nothing
// knows is a problem.
func environmentLayer(env []string) (layer, []Problem) {
	schema := newSchema()
	values := map[string]any{}
	names := map[string]string{}
	var problems []Problem
	for _, entry := range slices.Sorted(slices.Values(env)) {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) || name == EnvConfigFile || name == EnvToken ||
			orchestratorEnv.MatchString(name) {
			continue
		}
		path, ok := schema.pathOfEnv(name)
		if !ok {
			if path, ok = schema.secretOfEnvFile(name); ok {
				secret, err := schema.readSecret(path, value)
				if err != nil {
					problems = append(problems, Problem{Key: path, Origin: name, Reason: err.Error()})
					continue
				}
				if other := names[path]; other != "" {
					problems = append(problems, Problem{Key: path, Origin: name, Reason: other + " sets it too; set one of the two"})
				}
				values[path], names[path] = secret, name
				continue
			}
			problems = append(problems, Problem{Key: name, Reason: "there is no such variable" + schema.suggestEnv(name)})
			continue
		}
		values[path], names[path] = value, name
	}
	l, err := mapLayer(values, func(path string) string { return names[path] })
	if err != nil {
		problems = append(problems, Problem{Key: "environment", Reason: err.Error()})
	}
	return l, problems
}

// flagLayer makes a layer of one flag: in one layer together, a flag for a key
// and one for its section would hide each other before anyone could complain.
func flagLayer(f Flag) layer {
	l, err := mapLayer(map[string]any{f.Key: f.Value}, func(string) string { return f.Name })
	if err != nil {
		panic(fmt.Sprintf("config: a map in memory cannot fail to load: %v", err))
	}
	return l
}

// decode sets every key of cfg that has a value.
func decode(cfg *Config, values *koanf.Koanf, origins map[string]string) []Problem {
	var problems []Problem
	var walk func(v reflect.Value, prefix string)
	walk = func(v reflect.Value, prefix string) {
		eachMember(v, prefix, func(f field) {
			switch kindOf(f.value) {
			case reflect.Struct:
				walk(f.value, f.path)
			case reflect.Map:
				decodeMap(f, values, walk)
			default:
				raw := values.Get(f.path)
				if raw == nil {
					return
				}
				if reason := setValue(f, raw); reason != "" {
					problems = append(problems, Problem{
						Key: f.path, Value: displayRaw(f, raw), Origin: origins[f.path], Reason: reason,
					})
				}
			}
		})
	}
	walk(reflect.ValueOf(cfg).Elem(), "")
	return problems
}

func decodeMap(f field, values *koanf.Koanf, walk func(reflect.Value, string)) {
	names := values.MapKeys(f.path)
	if len(names) == 0 {
		return
	}
	f.value.Set(reflect.MakeMap(f.value.Type()))
	for _, name := range names {
		element := newElement(f.value.Type().Elem())
		walk(element, f.path+"."+name)
		f.value.SetMapIndex(reflect.ValueOf(name), element)
	}
}

// displayRaw shows a value as it was written, unless it is a secret.
func displayRaw(f field, raw any) string {
	if f.isSecret() {
		return mask
	}
	switch v := raw.(type) {
	case string:
		return fmt.Sprintf("%q", v)
	case map[string]any:
		return "{" + strings.Join(slices.Sorted(maps.Keys(v)), ", ") + "}"
	default:
		return fmt.Sprint(v)
	}
}
