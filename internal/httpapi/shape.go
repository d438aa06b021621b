package httpapi

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// shape is what the JSON of a body may look like, by the schema that the API's
// description shows. Values are for huma and the domain to judge. What is refused
// here is what encoding/json would put right in silence, so that something else
// would be done than was asked for: a member that comes twice or in other letters,
// null where the schema has none, half a character, 2.0 for a whole number. The
// zero shape refuses nothing. It is safe for concurrent use.
type shape struct {
	schema  *huma.Schema
	schemas huma.Registry
}

// shapeOf returns the shape of a type's JSON. The types after it are those that it
// embeds, which a schema takes no notice of.
func shapeOf[T any](embedded ...reflect.Type) shape {
	schemas := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	s := shape{schema: schemas.Schema(reflect.TypeFor[T](), false, "T"), schemas: schemas}
	for _, t := range embedded {
		maps.Copy(s.schema.Properties, schemas.Schema(t, false, "Embedded").Properties)
	}
	return s
}

// shapeOfBody returns the shape of an operation's body.
func shapeOfBody(op *huma.Operation, schemas huma.Registry) shape {
	if op.RequestBody == nil || op.SkipValidateBody {
		return shape{}
	}
	return shape{schema: op.RequestBody.Content["application/json"].Schema, schemas: schemas}
}

// check says what is wrong with a body, nil if nothing is.
func (s shape) check(body []byte) *problem {
	if s.schema == nil {
		return nil
	}
	if refused := checkJSON(body); refused != nil {
		return refused
	}
	w := walkJSON(body)
	w.value("", s.resolve(s.schema), s)
	return w.problem()
}

// resolve follows references. The result is nil for what may be anything.
func (s shape) resolve(schema *huma.Schema) *huma.Schema {
	for schema != nil && schema.Ref != "" {
		schema = s.schemas.SchemaFromRef(schema.Ref)
	}
	if schema == nil || schema.Type == "" {
		return nil
	}
	return schema
}

// member returns the schema of an object's member, nil for what may be anything;
// ok is false if there may be no such member.
func (s shape) member(object *huma.Schema, name string) (schema *huma.Schema, ok bool) {
	if object == nil {
		return nil, true
	}
	if schema, ok = object.Properties[name]; ok {
		return s.resolve(schema), true
	}
	switch more := object.AdditionalProperties.(type) {
	case *huma.Schema:
		return s.resolve(more), true
	case bool:
		return nil, more
	}
	return nil, true
}

// value takes a value and notes where it is not of the shape. The schema is
// resolved.
func (w *jsonWalker) value(name string, schema *huma.Schema, s shape) {
	switch c := w.next(); {
	case c == 'n' && schema != nil && !schema.Nullable:
		w.wrong(name, "is null; leave it out or give a value")
		w.skip()
	case c == '{':
		w.object(name, schema, s)
	case c == '[':
		w.elements(name, schema, s)
	case c == '"':
		w.word(name)
	case c != 'n' && schema != nil && schema.Type == huma.TypeInteger:
		w.whole(name)
	default:
		w.skip()
	}
}

// maxPathBytes is about how long the path of a mistake may get; beyond it the
// members that are in between are left out.
const maxPathBytes = 100

// enter makes errors tell of what is inside a member, until leave is called.
func (w *jsonWalker) enter(name string) (leave func()) {
	in := w.in
	if name != "" && len(in) < maxPathBytes {
		if in != "" {
			w.in += "."
		}
		w.in += clip(name)
	}
	return func() { w.in = in }
}

func (w *jsonWalker) object(name string, schema *huma.Schema, s shape) {
	defer w.enter(name)()
	seen := map[string]struct{}{}
	for w.pos++; ; {
		switch w.next() {
		case '}':
			w.pos++
			return
		case ',':
			w.pos++
			w.next()
		}
		member, whole := w.string()
		w.next()
		w.pos++ // the colon
		of, known := s.member(schema, member)
		_, twice := seen[member]
		seen[member] = struct{}{}
		switch {
		case !whole:
			w.wrong(member, "has a name that "+halfCharacter)
		case !known:
			w.wrong(member, "is not known here; the members are %s", strings.Join(slices.Sorted(maps.Keys(schema.Properties)), ", "))
		case twice:
			w.wrong(member, "is there twice; give it once")
		default:
			w.value(member, of, s)
			continue
		}
		w.skip()
	}
}

func (w *jsonWalker) elements(name string, schema *huma.Schema, s shape) {
	var of *huma.Schema
	if schema != nil {
		of = s.resolve(schema.Items)
	}
	w.pos++
	for n := 0; ; n++ {
		switch w.next() {
		case ']':
			w.pos++
			return
		case ',':
			w.pos++
		}
		at := name
		if len(at) < maxPathBytes {
			at += "[" + strconv.Itoa(n) + "]"
		}
		w.value(at, of, s)
	}
}
