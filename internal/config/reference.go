package config

import (
	"fmt"
	"io"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
)

// WriteYAML writes the configuration as a YAML file with secrets masked. Apart
// from those, loading what it writes gives the same configuration.
func (c *Config) WriteYAML(w io.Writer) error {
	root := &yamlv3.Node{Kind: yamlv3.MappingNode}
	walkValues(c, func(f field) {
		node := root
		parts := strings.Split(f.path, ".")
		for _, part := range parts[:len(parts)-1] {
			node = childSection(node, part)
		}
		node.Content = append(node.Content, yamlText(parts[len(parts)-1]), yamlValue(f))
	})
	encoder := yamlv3.NewEncoder(w)
	encoder.SetIndent(2)
	if err := encoder.Encode(root); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return encoder.Close()
}

func childSection(parent *yamlv3.Node, name string) *yamlv3.Node {
	for i := 0; i+1 < len(parent.Content); i += 2 {
		if parent.Content[i].Value == name {
			return parent.Content[i+1]
		}
	}
	child := &yamlv3.Node{Kind: yamlv3.MappingNode}
	parent.Content = append(parent.Content, yamlText(name), child)
	return child
}

func yamlText(s string) *yamlv3.Node {
	n := &yamlv3.Node{}
	n.SetString(s)
	return n
}

func yamlValue(f field) *yamlv3.Node {
	switch v := f.value.Interface().(type) {
	case string:
		if f.path == "tracing.endpoint" || f.path == "auth.jwks.url" || f.path == "bus.nats.url" || f.path == "payments.stripe.baseUrl" {
			v = redactURL(v)
		}
		return yamlText(v)
	case Secret:
		return yamlText(v.String())
	case []string:
		return yamlList(v)
	case []Secret:
		masked := make([]string, len(v))
		for i, s := range v {
			masked[i] = s.String()
		}
		return yamlList(masked)
	default:
		return &yamlv3.Node{Kind: yamlv3.ScalarNode, Value: formatValue(f)}
	}
}

func yamlList(values []string) *yamlv3.Node {
	n := &yamlv3.Node{Kind: yamlv3.SequenceNode, Style: yamlv3.FlowStyle}
	for _, v := range values {
		n.Content = append(n.Content, yamlText(v))
	}
	return n
}

// introduction explains the layers above the list of keys.
const introduction = `Each key can be set in a YAML file (--config FILE or MILLRACE_CONFIG), by a variable of the environment, and with --set key=value; the later one wins. A key or a MILLRACE_ variable that nothing knows is an error. Sizes take B, KiB, MiB, GiB, TiB or KB, MB, GB, TB; durations take ms, s, m, h. In variables and --set, lists are comma-separated, or JSON where a value has a comma in it. <name> stands for a name of your choice. Names in variables are written in capitals.`

// WriteReference writes every key with meaning, default, bounds and variable, as
// plain text for a terminal.
func WriteReference(w io.Writer) error {
	var b strings.Builder
	writeWrapped(&b, introduction, "")
	for _, g := range Groups() {
		if g.Path != "" {
			fmt.Fprintf(&b, "\n%s\n", strings.ToUpper(g.Path))
			writeWrapped(&b, g.Doc, "")
		}
		for _, k := range g.Keys {
			fmt.Fprintf(&b, "\n  %s  (%s)\n", k.Path, k.valueForm())
			writeWrapped(&b, k.Doc, "      ")
			fmt.Fprintf(&b, "      default: %s\n      env:     %s\n", k.defaultText(), k.Env)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteMarkdown writes the same as WriteReference as a page of documentation.
func WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Configuration reference\n\n")
	b.WriteString("<!-- Written by `millrace config reference --format markdown`. Change the field tags in internal/config instead. -->\n\n")
	b.WriteString(markdownText(introduction) + "\n")
	for _, g := range Groups() {
		title := g.Path
		if title == "" {
			title = "Top level"
		}
		fmt.Fprintf(&b, "\n## %s\n\n", markdownText(title))
		if g.Doc != "" {
			b.WriteString(markdownText(g.Doc) + "\n\n")
		}
		b.WriteString("| Key | Default | Value | Meaning | Variable |\n|---|---|---|---|---|\n")
		for _, k := range g.Keys {
			fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | `%s` |\n",
				k.Path, k.defaultText(), markdownText(k.valueForm()), markdownText(k.Doc), k.Env)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// valueForm says in a few words what a value may be.
func (k Key) valueForm() string {
	form := k.Type
	if k.Unit != "" {
		form += ", " + k.Unit
	}
	switch {
	case k.Enum != nil && k.Type == "list":
		form += " of " + strings.Join(k.Enum, ", ")
	case k.Enum != nil:
		form = "one of " + strings.Join(k.Enum, ", ")
	case k.Min != "" && k.Max != "":
		form += ", " + k.Min + " to " + k.Max
	case k.Min != "":
		form += ", at least " + k.Min
	}
	if k.Secret {
		form += ", never shown"
	}
	return form
}

// defaultText is the default, or that there is none: what stands beneath a name
// of the user's choice has a default only if it is not empty.
func (k Key) defaultText() string {
	if strings.Contains(k.Path, nameHole) && (k.Default == `""` || k.Default == "[]") {
		return "none, required"
	}
	return k.Default
}

// markdownText keeps text from being taken for HTML or the end of a cell.
func markdownText(s string) string {
	return strings.NewReplacer("<", "&lt;", ">", "&gt;", "|", `\|`).Replace(s)
}

// writeWrapped writes text in lines of at most 88 columns.
func writeWrapped(b *strings.Builder, text, indent string) {
	const columns = 88
	line := indent
	for _, word := range strings.Fields(text) {
		if len(line) > len(indent) && len(line)+1+len(word) > columns {
			b.WriteString(line + "\n")
			line = indent
		}
		if len(line) > len(indent) {
			line += " "
		}
		line += word
	}
	b.WriteString(line + "\n")
}
