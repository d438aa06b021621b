package httpapi

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"millrace/internal/auth"
)

// placeList is the schema of what searchPlaces writes.
type placeList struct {
	Places []placeView `json:"places" nullable:"false" doc:"Countries first, then by population."`
}

// localizedProduct is the schema of a product in one language.
type localizedProduct struct {
	SKU         string          `json:"sku" example:"tee-black-m"`
	Language    string          `json:"language" doc:"What the name is in (BCP 47)." example:"de"`
	Name        string          `json:"name" example:"T-Shirt, schwarz, M"`
	Description string          `json:"description,omitempty" doc:"In that language, or, if it has none, in the nearest that there is: Content-Language has both."`
	Price       money           `json:"price"`
	Category    string          `json:"category,omitempty" example:"clothing"`
	Slug        string          `json:"slug,omitempty" doc:"Names it in addresses for people." example:"black-tee"`
	Position    int64           `json:"position" doc:"Orders the products of a category: lower first." example:"10"`
	Attributes  json.RawMessage `json:"attributes,omitempty" doc:"A JSON object of the merchant's own."`
	Active      bool            `json:"active" doc:"Whether it can be ordered."`
	Version     int64           `json:"version" doc:"Rises with every change." example:"2"`
	CreatedAt   time.Time       `json:"createdAt" example:"2026-11-20T10:00:00Z"`
	UpdatedAt   time.Time       `json:"updatedAt" example:"2026-11-22T08:30:00Z"`
}

// headerParam is a request header that an operation reads.
func headerParam(name, doc, example string) *huma.Param {
	return &huma.Param{Name: name, In: "header", Description: doc, Schema: &huma.Schema{Type: huma.TypeString}, Example: example}
}

func langParam() *huma.Param {
	return queryParam("lang", "The language that is wanted most (BCP 47). Where there is none of it: its parents, then those of Accept-Language, then English, then any.",
		&huma.Schema{Type: huma.TypeString}, "de-AT")
}

// readParams are the headers that reads from memory heed.
func readParams(tag string) []*huma.Param {
	return []*huma.Param{
		headerParam("If-None-Match", "The ETags of answers that you have: what is the same still is answered 304.", tag),
		headerParam("Accept-Language", "Languages that will do, with weights.", "de-AT, fr;q=0.5"),
	}
}

func encodingParam() *huma.Param {
	return headerParam("Accept-Encoding", "gzip and zstd, for what is large enough. Each has an ETag of its own.", "gzip, zstd")
}

// readResponses are the answers of a read from memory.
func readResponses(about string, media *huma.MediaType) map[string]*huma.Response {
	headers := func() map[string]*huma.Header {
		return map[string]*huma.Header{
			"ETag":             textHeader("Strong: of this version and its content in this language and encoding."),
			"Cache-Control":    textHeader("What was read with a credential must be asked for each time; without one it may be kept, by shared caches if the URL names the tenant and the language."),
			"Vary":             textHeader("What else the answer depends on."),
			"Content-Language": textHeader("Of what is in one language."),
			"Cache-Status":     textHeader("Only if it may be out of date: ttl is below zero by the seconds since it was known to be fresh."),
		}
	}
	return map[string]*huma.Response{
		"200": {Description: about, Headers: headers(), Content: map[string]*huma.MediaType{"application/json": media}},
		"304": {Description: "It is what If-None-Match names still.", Headers: headers()},
	}
}

// describeRead completes the description of a read from memory.
func describeRead(op *huma.Operation, slugs ...string) *huma.Operation {
	secure(op)
	problemResponses(op.Responses, append(slugs, slugInvalidParameter, auth.CodeTokenMissing, slugScopeMissing, slugLoading, slugInternal, slugQueryTimeout)...)
	return op
}

func (sf *surface) describeGetProduct() *huma.Operation {
	full := map[string]any{"sku": "tee-black-m", "names": map[string]any{"en": "T-shirt, black, M", "de": "T-Shirt, schwarz, M"},
		"price": map[string]any{"amount": 1999, "currency": "EUR"}, "category": "clothing", "slug": "black-tee", "position": 10, "active": true, "version": 7,
		"createdAt": "2026-11-20T10:00:00Z", "updatedAt": "2026-11-22T08:30:00Z"}
	one := map[string]any{"sku": "tee-black-m", "language": "de", "name": "T-Shirt, schwarz, M",
		"price": map[string]any{"amount": 1999, "currency": "EUR"}, "category": "clothing", "slug": "black-tee", "position": 10, "active": true, "version": 7,
		"createdAt": "2026-11-20T10:00:00Z", "updatedAt": "2026-11-22T08:30:00Z"}
	return describeRead(&huma.Operation{
		OperationID: "getProduct", Method: http.MethodGet, Path: "/products/{sku}", Tags: []string{"Catalogue"},
		Summary: "Show a product", Description: "From memory. In all its languages, or with lang in one.",
		Parameters: append(append([]*huma.Param{
			{Name: "sku", In: "path", Required: true, Description: "The product's SKU: A-Z a-z 0-9 . _ -", Schema: &huma.Schema{Type: huma.TypeString}, Example: "tee-black-m"},
			langParam(), encodingParam()}, readParams("\"v7-1f3a9c2e\"")...), sf.server.tenantParams()...),
		Responses: readResponses("The product.", &huma.MediaType{Schema: &huma.Schema{OneOf: []*huma.Schema{schemaOf[productView](sf), schemaOf[localizedProduct](sf)}},
			Examples: map[string]*huma.Example{"all": {Summary: "In all languages", Value: full}, "one": {Summary: "With lang", Value: one}}}),
	}, slugNotFound)
}

func (sf *surface) describeListProducts() *huma.Operation {
	op := &huma.Operation{
		OperationID: "listProducts", Method: http.MethodGet, Path: "/products", Tags: []string{"Catalogue"},
		Summary: "List products", Description: "From memory. Those that can be ordered: by SKU, those of a category by position, or the one that has a slug.",
		Parameters: append([]*huma.Param{
			queryParam("category", "Only this category.", &huma.Schema{Type: huma.TypeString}, "clothing"),
			queryParam("slug", "Only the product that has this slug.", &huma.Schema{Type: huma.TypeString}, "black-tee"),
			queryParam("inactive", "true shows products too that cannot be ordered; for catalog:write.", &huma.Schema{Type: huma.TypeBoolean}, nil),
			limitParam(), cursorParam(), readParams("\"h-0123456789abcdef\"")[0]}, sf.server.tenantParams()...),
		Responses: readResponses("A page of products.", &huma.MediaType{Schema: schemaOf[productPage](sf)}),
	}
	return describeRead(op, slugTooManyReads, slugOverloaded)
}

func (sf *surface) describeGetPlace() *huma.Operation {
	return describeRead(&huma.Operation{
		OperationID: "getPlace", Method: http.MethodGet, Path: "/places/{id}", Tags: []string{"Places"},
		Summary: "Show a country or a city", Description: "From memory, with its name in the language that is wanted most of those it has one in.",
		Parameters: append([]*huma.Param{
			{Name: "id", In: "path", Required: true, Description: "The place's id.", Schema: &huma.Schema{Type: huma.TypeInteger, Format: "int64"}, Example: 2950159},
			langParam(), encodingParam()}, readParams("\"v1-1f3a9c2e-de\"")...),
		Responses: readResponses("The place.", &huma.MediaType{Schema: schemaOf[placeView](sf)}),
	}, slugNotFound)
}

func (sf *surface) describeSearchPlaces() *huma.Operation {
	return describeRead(&huma.Operation{
		OperationID: "searchPlaces", Method: http.MethodGet, Path: "/places", Tags: []string{"Places"},
		Summary: "Find places by the beginning of their name", Description: "From memory: countries first, then by population. Case and diacritics do not matter.",
		Parameters: append([]*huma.Param{
			queryParam("prefix", "How the name begins, in one of the languages that are wanted; at most 100 characters.", &huma.Schema{Type: huma.TypeString}, "münch"),
			queryParam("country", "Only what is in this country (ISO 3166-1 alpha-2).", &huma.Schema{Type: huma.TypeString}, "DE"),
			queryParam("kind", "Only this kind.", &huma.Schema{Type: huma.TypeString, Enum: []any{"country", "city"}}, "city"),
			queryParam("limit", "The most places to show.", &huma.Schema{Type: huma.TypeInteger, Minimum: number(1), Maximum: number(maxPlaces), Default: defaultPlaces}, 10),
			queryParam("lang", "The language that is wanted most (BCP 47). With it Accept-Language does not count: where there is none of it, its parents, then English, then any.",
				&huma.Schema{Type: huma.TypeString}, "de-AT")}, readParams("\"h-0123456789abcdef\"")...),
		Responses: readResponses("The places.", &huma.MediaType{Schema: schemaOf[placeList](sf)}),
	}, slugTooManyReads, slugOverloaded)
}
