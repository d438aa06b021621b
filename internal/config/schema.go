package config

import (
	"reflect"
	"slices"
	"strings"
)

// schema answers which keys and variables there are.
type schema struct {
	keys     []string // paths, "<name>" where a name goes
	sections []string // paths of sections, in the same form
	secrets  []string // the keys that are secrets
	// secretLists are the keys of lists of secrets.
	secretLists []string
}

func newSchema() schema {
	var s schema
	walkSchema(Default(), func(sec section) {
		s.sections = append(s.sections, sec.path)
		if base, ok := strings.CutSuffix(sec.path, "."+nameHole); ok {
			s.sections = append(s.sections, base)
		}
	}, func(f field) {
		s.keys = append(s.keys, f.path)
		if f.isSecret() && f.value.Kind() == reflect.Slice {
			s.secretLists = append(s.secretLists, f.path)
		} else if f.isSecret() {
			s.secrets = append(s.secrets, f.path)
		}
	})
	return s
}

// matches reports whether a path is an instance of a pattern, where "<name>" in
// the pattern stands for one part of any text.
func matches(pattern, path string) bool {
	_, ok := fill(pattern, path)
	return ok
}

// fill matches as matches does and returns the pattern with the names of path.
func fill(pattern, path string) (string, bool) {
	want, have := strings.Split(pattern, "."), strings.Split(path, ".")
	if len(want) != len(have) {
		return "", false
	}
	for i, part := range want {
		if part == nameHole {
			want[i] = have[i]
		} else if part != have[i] {
			return "", false
		}
	}
	return strings.Join(want, "."), true
}

func (s schema) isSection(path string) bool {
	return slices.ContainsFunc(s.sections, func(p string) bool { return matches(p, path) })
}

// unknown says why a path is not a key, and which one may be meant; it is empty
// for a key.
func (s schema) unknown(path string) string {
	if slices.ContainsFunc(s.keys, func(p string) bool { return matches(p, path) }) {
		return ""
	}
	if s.isSection(path) {
		return "it is a section and takes keys beneath it, not a value; see `millrace config reference`"
	}
	candidates := make([]string, 0, len(s.keys))
	for _, key := range s.keys {
		candidates = append(candidates, withNamesOf(key, nameHole, ".", path))
	}
	return "there is no such key" + suggestion(nearest(path, candidates))
}

// withNamesOf puts the parts of name where key has a hole, so that the suggestion
// for a key beneath a map keeps the name that was written.
func withNamesOf(key, hole, separator, name string) string {
	want, have := strings.Split(key, separator), strings.Split(name, separator)
	for i, part := range want {
		if part == hole && i < len(have) && have[i] != "" {
			want[i] = have[i]
		}
	}
	return strings.Join(want, separator)
}

// pathOfEnv returns the path of the key that a variable sets.
func (s schema) pathOfEnv(name string) (string, bool) {
	have := strings.Split(strings.TrimPrefix(name, envPrefix), "__")
	for _, key := range s.keys {
		parts := strings.Split(key, ".")
		if len(parts) != len(have) {
			continue
		}
		want := strings.Split(strings.TrimPrefix(envName(key), envPrefix), "__")
		matched := true
		for i := range parts {
			if parts[i] == nameHole && have[i] != "" {
				parts[i] = strings.ToLower(have[i])
			} else if want[i] != have[i] {
				matched = false
				break
			}
		}
		if matched {
			return strings.Join(parts, "."), true
		}
	}
	return "", false
}

func (s schema) suggestEnv(name string) string {
	// A single underscore where a double one belongs is the likeliest slip, and it
	// is no typing error, so distance alone would miss it.
	squeeze := func(n string) string { return strings.ReplaceAll(n, "_", "") }
	candidates := make([]string, 0, len(s.keys))
	for _, key := range s.keys {
		candidate := withNamesOf(envName(key), envHole, "__", name)
		if squeeze(candidate) == squeeze(strings.ToUpper(name)) {
			return suggestion(candidate)
		}
		candidates = append(candidates, candidate)
	}
	return suggestion(nearest(name, candidates))
}

func suggestion(candidate string) string {
	if candidate == "" {
		return "; `millrace config reference` lists all there are"
	}
	return "; did you mean " + candidate + "?"
}

// nearest returns the candidate that is likely meant, empty if none is near.
func nearest(name string, candidates []string) string {
	best, bestDistance := "", max(2, len(name)/5)+1
	for _, c := range candidates {
		if d := editDistance(strings.ToLower(name), strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	if best != "" {
		return best
	}
	// The right name in the wrong section: suggest it if it is the only one.
	last := name[strings.LastIndexByte(name, '.')+1:]
	for _, c := range candidates {
		if strings.EqualFold(c[strings.LastIndexByte(c, '.')+1:], last) {
			if best != "" {
				return ""
			}
			best = c
		}
	}
	return best
}

// editDistance counts the insertions, deletions and replacements of bytes that
// turn a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
