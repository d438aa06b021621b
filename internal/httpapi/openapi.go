package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"millrace/internal/auth"
)

// jsonWriter is an answer that writes its own JSON.
type jsonWriter interface{ writeJSON(io.Writer) error }

// newAPI returns the huma API of a surface. Its own routes for the document and
// the docs are off: they need the network, and are ours.
func newAPI(sf *surface, title, description, version string) huma.API {
	format := huma.Format{
		Marshal: func(w io.Writer, v any) error {
			if jw, ok := v.(jsonWriter); ok {
				return jw.writeJSON(w)
			}
			return huma.DefaultJSONFormat.Marshal(w, v)
		},
		Unmarshal: json.Unmarshal,
	}
	return huma.NewAPI(huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: title, Version: version, Description: description,
				License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			},
			Servers: []*huma.Server{{URL: "/"}},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
			},
		},
		Formats:       map[string]huma.Format{"application/json": format, "json": format},
		DefaultFormat: "application/json",
		Transformers:  []huma.Transformer{sf.transform},
	}, sf)
}

// newPublicSurface builds the routes of the API.
func newPublicSurface(s *Server) (*surface, error) {
	sf := newSurface(s, "Millrace", "Events in, durable before they are answered; orders through, never oversold and never charged twice. "+
		"Every error is a problem (RFC 9457) whose type is stable; every answer carries X-Request-Id.")
	sf.identify = s.identifyBearer
	sf.api.OpenAPI().Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"bearer": {Type: "http", Scheme: "bearer", Description: "A JSON Web Token or an API key."},
		"apiKey": {Type: "apiKey", In: "header", Name: "X-API-Key", Description: "An API key."},
	}
	doc := sf.api.OpenAPI()
	doc.Tags = []*huma.Tag{
		{Name: "Events", Description: "Send events, read them back, count them, follow them live."},
		{Name: "Dead letters", Description: "What could not be processed: see why, mend it, put it back."},
		{Name: "API keys", Description: "Credentials for devices and partners."},
		{Name: "Server", Description: "Probes and this description."},
	}
	doc.Tags = append(s.shopTags(), doc.Tags...)
	sf.handle(http.MethodPost, "/events", sf.postEvents).quiet = true
	sf.handle(http.MethodPost, "/hooks/{source}", sf.postHook).quiet = true
	sf.handle(http.MethodGet, "/events/tail", sf.getTail)
	sf.registerEvents()
	sf.registerDeadLetters()
	sf.registerKeys()
	sf.registerProbes()
	sf.registerShop()
	sf.describePlainRoutes()
	return sf, sf.publish()
}

// newProbeSurface builds the routes of an instance that does not serve the API:
// whoever watches over it asks how it is, and nothing else.
func newProbeSurface(s *Server) *surface {
	sf := newSurface(s, "Millrace", "This instance serves its health alone.")
	sf.identify = s.identifyBearer
	sf.registerProbes()
	return sf
}

func (sf *surface) registerProbes() {
	sf.handle(http.MethodGet, "/livez", sf.getLive).quiet = true
	sf.handle(http.MethodGet, "/readyz", sf.getReady).quiet = true
	sf.handle(http.MethodGet, "/readyz/{job}", sf.getReady).quiet = true
}

// publish renders the document and the docs page, once, and serves them.
func (sf *surface) publish() error {
	var spec, page []byte
	sf.handle(http.MethodGet, "/openapi.json", func(_ context.Context, ex *exchange, _ *http.Request) {
		h := ex.Header()
		h.Set("Content-Type", "application/openapi+json; version=3.1")
		h.Set("Cache-Control", "no-cache")
		_, _ = ex.Write(spec)
	})
	sf.handle(http.MethodGet, "/docs", func(_ context.Context, ex *exchange, _ *http.Request) {
		h := ex.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("Content-Security-Policy", docsPolicy)
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		_, _ = ex.Write(page)
	})
	doc := sf.api.OpenAPI()
	// huma describes its own error type when an operation lists no error; ours do.
	delete(doc.Components.Schemas.Map(), "ErrorModel")
	delete(doc.Components.Schemas.Map(), "ErrorDetail")
	raw, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("httpapi: rendering the OpenAPI document: %w", err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, raw, "", "  "); err != nil {
		return fmt.Errorf("httpapi: rendering the OpenAPI document: %w", err)
	}
	spec = append(pretty.Bytes(), '\n')
	page, err = renderDocs(doc)
	return err
}

// describe completes an operation before it is registered: its problems, and what
// it asks of the credential.
func describe(op *huma.Operation, who access) {
	slugs := []string{slugInvalidParameter, auth.CodeTokenMissing, slugScopeMissing, slugInternal, slugQueryTimeout}
	switch {
	case op.Method == http.MethodPut, op.Method == http.MethodPost && op.Path != "/dead-letters/redrive":
		slugs = append(slugs, slugBodyTooLarge, slugMediaType, slugMalformedBody, slugInvalidBody, slugSlowBody)
	}
	if strings.Contains(op.Path, "{id}") || strings.Contains(op.Path, "{sku}") && op.Method == http.MethodGet {
		slugs = append(slugs, slugNotFound)
	}
	more, _ := op.Metadata[problemsKey].([]string)
	slugs = append(slugs, more...)
	if op.OperationID == "redriveDeadLetter" {
		slugs = append(slugs, slugNotRedrivable, slugNoValidEvents)
	}
	if op.OperationID == "redriveDeadLetter" || op.OperationID == "redriveDeadLetters" {
		slugs = append(slugs, slugRateLimited)
	}
	secure(op, who.scopes...)
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	if long, _ := op.Metadata[longReadKey].(bool); long {
		slugs = append(slugs, slugTooManyReads, slugOverloaded)
	}
	problemResponses(op.Responses, slugs...)
}

// describeStatuses adds the answers that an operation gives besides its usual one:
// 201 for what a PUT makes, 304 for what has the ETag of the question.
func describeStatuses(doc *huma.OpenAPI, op *huma.Operation) {
	for _, described := range operations(doc.Paths[op.Path]) {
		if described.OperationID == op.OperationID {
			op = described // with the parameters and answers of its types
		}
	}
	usual := op.Responses["200"]
	if usual == nil || usual.Headers["ETag"] == nil {
		return
	}
	switch {
	case op.Method == http.MethodPut:
		created := *usual
		created.Description = "Created"
		op.Responses["201"] = &created
	case slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.Name == "If-None-Match" }):
		op.Responses["304"] = &huma.Response{Description: "It has the version of If-None-Match still.", Headers: map[string]*huma.Header{"ETag": usual.Headers["ETag"]}}
	}
}

// secure says that an operation asks for a credential, with one of the scopes if
// there are any.
func secure(op *huma.Operation, scopes ...auth.Scope) {
	op.Security = []map[string][]string{{"bearer": {}}, {"apiKey": {}}}
	if len(scopes) == 0 {
		return
	}
	names := make([]string, len(scopes))
	for i, s := range scopes {
		names[i] = string(s)
	}
	op.Extensions = map[string]any{"x-scope": strings.Join(names, " or ")}
}

// problemRef is the schema of all errors.
func problemRef() *huma.Schema { return &huma.Schema{Ref: "#/components/schemas/Problem"} }

// problemResponses adds the answers that problems give, one per status.
func problemResponses(responses map[string]*huma.Response, slugs ...string) {
	byStatus := map[int][]string{}
	for _, slug := range slugs {
		kind, ok := lookupKind(slug)
		if !ok {
			panic("httpapi: problem type " + slug + " is not in the table")
		}
		byStatus[kind.status] = append(byStatus[kind.status], slug)
	}
	for status, slugs := range byStatus {
		media := &huma.MediaType{Schema: problemRef(), Examples: map[string]*huma.Example{}}
		text := ""
		for i, slug := range slugs {
			kind, _ := lookupKind(slug)
			if i > 0 {
				text += "; "
			}
			text += kind.title
			p := map[string]any{"type": problemBase + slug, "title": kind.title, "status": status,
				"detail": kind.about, "instance": "0d6f1c1e5b0f4a7c9be2f7a9c1d3e5f7"}
			if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
				p["retryAfter"] = 5
			}
			media.Examples[slug] = &huma.Example{Summary: kind.title, Value: p}
		}
		responses[strconv.Itoa(status)] = &huma.Response{Description: text, Headers: problemHeaders(status),
			Content: map[string]*huma.MediaType{"application/problem+json": media}}
	}
}

func problemHeaders(status int) map[string]*huma.Header {
	h := map[string]*huma.Header{}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		h["WWW-Authenticate"] = textHeader("The challenge of RFC 6750.")
	case http.StatusMethodNotAllowed:
		h["Allow"] = textHeader("The methods there are.")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		h["Retry-After"] = &huma.Header{Description: "Seconds to wait.", Schema: &huma.Schema{Type: huma.TypeInteger}}
	}
	return h
}

func textHeader(description string) *huma.Header {
	return &huma.Header{Description: description, Schema: &huma.Schema{Type: huma.TypeString}}
}

// schemaOf registers a Go type's schema and returns a reference to it.
func schemaOf[T any](sf *surface) *huma.Schema {
	return sf.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
}

// Query parameters that several operations share.

func number(v int) *float64 { f := float64(v); return &f }

func queryParam(name, doc string, schema *huma.Schema, example any) *huma.Param {
	return &huma.Param{Name: name, In: "query", Description: doc, Schema: schema, Example: example}
}

func typeParam() *huma.Param {
	return queryParam("type", "Only this type.", &huma.Schema{Type: huma.TypeString}, "device.reading")
}

func fromParam() *huma.Param {
	return queryParam("from", "Received at or after this time.", &huma.Schema{Type: huma.TypeString, Format: "date-time"}, "2026-11-22T08:00:00Z")
}

func toParam() *huma.Param {
	return queryParam("to", "Received before this time.", &huma.Schema{Type: huma.TypeString, Format: "date-time"}, "2026-11-22T09:00:00Z")
}

func limitParam() *huma.Param {
	return queryParam("limit", "The size of the page.",
		&huma.Schema{Type: huma.TypeInteger, Minimum: number(1), Maximum: number(maxLimit), Default: defaultLimit}, 100)
}

func bulkParam() *huma.Param {
	return queryParam("limit", "The most letters to work on.",
		&huma.Schema{Type: huma.TypeInteger, Minimum: number(1), Maximum: number(maxBulk), Default: defaultBulk}, 500)
}

// maxCursorBytes bounds a cursor; those this server gives are far shorter.
const maxCursorBytes = 512

func cursorParam() *huma.Param {
	return queryParam("cursor", "The nextCursor of the page before.", &huma.Schema{Type: huma.TypeString}, nil)
}

func stepParam() *huma.Param {
	return queryParam("step", fmt.Sprintf("The width of a point: whole minutes from 1m to 24h. A range may have %d points.", maxPoints),
		&huma.Schema{Type: huma.TypeString, Default: "1m"}, "5m")
}

func kindParam() *huma.Param {
	var kinds []any
	for _, k := range letterKinds {
		kinds = append(kinds, k)
	}
	return queryParam("kind", "Only this kind.", &huma.Schema{Type: huma.TypeString, Enum: kinds}, "event")
}

// paths returns the document's paths in a stable order.
func paths(doc *huma.OpenAPI) []string {
	list := make([]string, 0, len(doc.Paths))
	for p := range doc.Paths {
		list = append(list, p)
	}
	slices.Sort(list)
	return list
}
