package httpapi

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// The docs page is one HTML document without scripts: it is rendered once from
// the OpenAPI document and needs nothing else, so it works where there is no
// network, and its policy allows nothing but its own style.

//go:embed docs.html
var docsTemplate string

//go:embed docs.css
var docsStyle string

// docsPolicy allows the page its one style sheet and nothing else.
var docsPolicy = func() string {
	sum := sha256.Sum256([]byte(docsStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

// docsPage is what the template shows.
type docsPage struct {
	Title, Version, Description string
	Style                       template.CSS
	Groups                      []docsGroup
	Schemas                     []docsSchema
	Problems                    []docsProblem
}

type docsGroup struct {
	Name, Description, Anchor string
	Operations                []docsOperation
}

type docsOperation struct {
	ID, Method, Path, Summary, Description, Scope, Curl string
	Params                                              []docsParam
	Bodies                                              []docsMedia
	Responses                                           []docsResponse
}

type docsParam struct {
	Name, In, Type, Description, Example string
	Required                             bool
}

type docsMedia struct {
	ContentType string
	Schema      docsType
	Examples    []docsExample
}

type docsExample struct{ Summary, Text string }

type docsResponse struct {
	Status, Description string
	Problems            []string
	Media               []docsMedia
}

type docsProblem struct {
	Slug, Title, About string
	Status             int
}

type docsSchema struct {
	Name, Description string
	Fields            []docsField
}

type docsField struct {
	Name, Description string
	Type              docsType
	Required          bool
}

// docsType is a type in words, with the schema it leads to, if any.
type docsType struct{ Text, Link string }

// renderDocs renders the page.
func renderDocs(doc *huma.OpenAPI) ([]byte, error) {
	page := docsPage{
		Title: doc.Info.Title, Version: doc.Info.Version, Description: doc.Info.Description,
		Style: template.CSS(docsStyle), // ours, embedded
	}
	for _, tag := range doc.Tags {
		page.Groups = append(page.Groups, docsGroup{Name: tag.Name, Description: tag.Description, Anchor: anchor(tag.Name)})
	}
	for _, path := range paths(doc) {
		for _, op := range operations(doc.Paths[path]) {
			i := slices.IndexFunc(page.Groups, func(g docsGroup) bool { return len(op.Tags) > 0 && g.Name == op.Tags[0] })
			if i < 0 {
				return nil, fmt.Errorf("httpapi: the operation %s has no known tag", op.OperationID)
			}
			page.Groups[i].Operations = append(page.Groups[i].Operations, docsOperationOf(op))
		}
	}
	schemas := doc.Components.Schemas.Map()
	for name, schema := range schemas {
		page.Schemas = append(page.Schemas, docsSchemaOf(name, schema))
	}
	slices.SortFunc(page.Schemas, func(a, b docsSchema) int { return strings.Compare(a.Name, b.Name) })
	for _, kind := range problemKinds {
		if kind.status != statusClientGone {
			page.Problems = append(page.Problems, docsProblem{Slug: kind.slug, Title: kind.title, About: kind.about, Status: kind.status})
		}
	}
	t, err := template.New("docs").Parse(docsTemplate)
	if err != nil {
		return nil, fmt.Errorf("httpapi: the docs template: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, page); err != nil {
		return nil, fmt.Errorf("httpapi: rendering the docs page: %w", err)
	}
	return out.Bytes(), nil
}

// operations returns a path's operations in a stable order.
func operations(item *huma.PathItem) []*huma.Operation {
	var list []*huma.Operation
	for _, op := range []*huma.Operation{item.Post, item.Get, item.Put, item.Patch, item.Delete} {
		if op != nil {
			list = append(list, op)
		}
	}
	return list
}

func docsOperationOf(op *huma.Operation) docsOperation {
	out := docsOperation{ID: op.OperationID, Method: op.Method, Path: op.Path, Summary: op.Summary, Description: op.Description}
	out.Scope, _ = op.Extensions["x-scope"].(string)
	for _, p := range op.Parameters {
		out.Params = append(out.Params, docsParam{Name: p.Name, In: p.In, Type: typeOf(p.Schema).Text, Description: p.Description,
			Example: exampleText(p.Example), Required: p.Required})
	}
	if op.RequestBody != nil {
		out.Bodies = mediaOf(op.RequestBody.Content)
	}
	var statuses []string
	for status := range op.Responses {
		statuses = append(statuses, status)
	}
	slices.Sort(statuses)
	for _, status := range statuses {
		r := op.Responses[status]
		shown := docsResponse{Status: status, Description: r.Description}
		if media, ok := r.Content["application/problem+json"]; ok {
			for slug := range media.Examples {
				shown.Problems = append(shown.Problems, slug)
			}
			slices.Sort(shown.Problems)
		} else {
			shown.Media = mediaOf(r.Content)
		}
		out.Responses = append(out.Responses, shown)
	}
	out.Curl = curlOf(op)
	return out
}

func mediaOf(content map[string]*huma.MediaType) []docsMedia {
	var list []docsMedia
	for ct, media := range content {
		m := docsMedia{ContentType: ct, Schema: typeOf(media.Schema)}
		if media.Example != nil {
			m.Examples = append(m.Examples, docsExample{Text: exampleText(media.Example)})
		}
		var names []string
		for name := range media.Examples {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			m.Examples = append(m.Examples, docsExample{Summary: media.Examples[name].Summary, Text: exampleText(media.Examples[name].Value)})
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b docsMedia) int { return strings.Compare(a.ContentType, b.ContentType) })
	return list
}

func docsSchemaOf(name string, s *huma.Schema) docsSchema {
	out := docsSchema{Name: name, Description: s.Description}
	for field, fs := range s.Properties {
		out.Fields = append(out.Fields, docsField{Name: field, Type: typeOf(fs), Description: fs.Description,
			Required: slices.Contains(s.Required, field)})
	}
	// What must be there comes first.
	slices.SortFunc(out.Fields, func(a, b docsField) int {
		if a.Required != b.Required {
			if a.Required {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

// typeOf says a schema in words.
func typeOf(s *huma.Schema) docsType {
	switch {
	case s == nil:
		return docsType{Text: "any"}
	case s.Ref != "":
		name := s.Ref[strings.LastIndex(s.Ref, "/")+1:]
		return docsType{Text: name, Link: name}
	case s.Type == huma.TypeArray:
		item := typeOf(s.Items)
		return docsType{Text: "list of " + item.Text, Link: item.Link}
	case len(s.OneOf) > 0:
		var texts []string
		link := ""
		for _, one := range s.OneOf {
			t := typeOf(one)
			texts, link = append(texts, t.Text), t.Link
		}
		return docsType{Text: strings.Join(texts, " or "), Link: link}
	case s.Type == "":
		return docsType{Text: "any JSON"}
	}
	text := s.Type
	if s.Format != "" {
		text = s.Format
	}
	if s.Minimum != nil && s.Maximum != nil {
		text += fmt.Sprintf(", %v to %v", *s.Minimum, *s.Maximum)
	}
	if len(s.Enum) > 0 {
		words := make([]string, len(s.Enum))
		for i, v := range s.Enum {
			words[i] = fmt.Sprint(v)
		}
		text = strings.Join(words, " | ")
	}
	if s.Default != nil {
		text += fmt.Sprintf(", default %v", s.Default)
	}
	return docsType{Text: text}
}

// exampleText shows an example: text as it is, all else as JSON.
func exampleText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return strings.TrimSpace(v)
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// curlOf is a line that can be pasted into a shell where TOKEN is set.
func curlOf(op *huma.Operation) string {
	path := op.Path
	var query []string
	for _, p := range op.Parameters {
		switch {
		case p.In == "path":
			path = strings.ReplaceAll(path, "{"+p.Name+"}", exampleText(p.Example))
		case p.In == "query" && p.Example != nil:
			query = append(query, p.Name+"="+exampleText(p.Example))
		}
	}
	if len(query) > 0 {
		path += "?" + strings.Join(query, "&")
	}
	line := "curl"
	if op.Method != http.MethodGet {
		line += " -X " + op.Method
	}
	if op.OperationID == "tailEvents" {
		line += " -N"
	}
	if len(op.Security) > 0 {
		line += ` -H "Authorization: Bearer $TOKEN"`
	}
	for _, p := range op.Parameters {
		if p.In == "header" && p.Required {
			line += fmt.Sprintf(" -H '%s: %s'", p.Name, exampleText(p.Example))
		}
	}
	if op.RequestBody != nil && op.RequestBody.Required {
		line += " -H 'Content-Type: application/json' -d '" + strings.ReplaceAll(compactExample(op.RequestBody), "'", `'\''`) + "'"
	}
	return line + ` "$URL` + path + `"`
}

// compactExample is the request's first JSON example on one line.
func compactExample(body *huma.RequestBody) string {
	media := body.Content["application/json"]
	if media == nil {
		return "{}"
	}
	v := media.Example
	if array, ok := media.Examples["array"]; ok {
		v = array.Value
	}
	if v == nil {
		return "{}"
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "{}"
	}
	return string(b)
}

func anchor(name string) string { return strings.ReplaceAll(strings.ToLower(name), " ", "-") }
