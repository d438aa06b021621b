package httpapi

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"millrace/internal/auth"
)

// The types below are schemas of what plain handlers read and write by hand.

// newEvent is an event as it is sent.
type newEvent struct {
	ID        string          `json:"id,omitempty" maxLength:"256" doc:"Yours, so that a repeat counts once. Without one the event gets a UUIDv7, and a repeat is a new event." example:"r-17-0001"`
	Type      string          `json:"type" minLength:"1" maxLength:"256" doc:"What happened." example:"device.reading"`
	Source    string          `json:"source,omitempty" maxLength:"2048" doc:"Who says so. The id is unique within it." example:"sensors/eu/17"`
	Timestamp *time.Time      `json:"timestamp,omitempty" doc:"When it happened; absent: the time of receipt." example:"2026-11-22T08:30:00Z"`
	TenantID  string          `json:"tenantId,omitempty" doc:"Must be the credential's tenant if it is given." example:"demo"`
	Payload   json.RawMessage `json:"payload,omitempty" doc:"Any JSON. It is kept byte for byte; absent: null."`
	_         struct{}        `json:"-" additionalProperties:"true"`
}

// eventBatch wraps events in an object.
type eventBatch struct {
	Events []newEvent `json:"events" nullable:"false" minItems:"1"`
}

// ingestReceipt is the answer to an accepted batch.
type ingestReceipt struct {
	BatchID    string          `json:"batchId" format:"uuid" example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
	Accepted   int             `json:"accepted" doc:"Events that are kept, duplicates included." example:"2"`
	Duplicates int             `json:"duplicates,omitempty" doc:"Accepted events that were there already."`
	Rejected   []rejectedEvent `json:"rejected" nullable:"false" doc:"Events that became dead letters."`
	IDs        []string        `json:"ids,omitempty" doc:"The id of each accepted event, in order, if the server gave at least one."`
}

// liveState is the answer of /livez.
type liveState struct {
	Status string `json:"status" enum:"alive"`
}

func exampleEvents() []any {
	return []any{
		map[string]any{"id": "r-17-0001", "type": "device.reading", "source": "sensors/eu/17",
			"timestamp": "2026-11-22T08:30:00Z", "payload": map[string]any{"celsius": 21.5}},
		map[string]any{"type": "device.online", "payload": nil},
	}
}

// describePlainRoutes adds to the document what huma does not serve.
func (sf *surface) describePlainRoutes() {
	schemaOf[problem](sf)
	doc := sf.api.OpenAPI()
	doc.AddOperation(sf.describePostEvents())
	doc.AddOperation(sf.describePostHook())
	doc.AddOperation(sf.describeTail())
	sf.describeShop(doc)
	sf.describeServer(doc)
}

func (sf *surface) accepted() *huma.Response {
	return &huma.Response{
		Description: "Kept, as durably as the server's ack mode promises.",
		Headers: map[string]*huma.Header{
			"RateLimit":        textHeader("What is left of the tenant's rate and quota, as far as it has them."),
			"RateLimit-Policy": textHeader("The tenant's rate and quota, as far as it has them."),
		},
		Content: map[string]*huma.MediaType{"application/json": {
			Schema: schemaOf[ingestReceipt](sf),
			Examples: map[string]*huma.Example{"all": {Summary: "All accepted", Value: map[string]any{
				"batchId": "0198c5d4-5b1e-7c3a-9f00-1d2e3f405162", "accepted": 2, "rejected": []any{},
				"ids": []any{"r-17-0001", "0198c5d4-5b1e-7c3a-9f00-1d2e3f405163"}}},
				"some": {Summary: "One rejected", Value: map[string]any{
					"batchId": "0198c5d4-5b1e-7c3a-9f00-1d2e3f405162", "accepted": 1,
					"rejected": []any{map[string]any{"index": 1, "id": "r-17-0002", "reason": `"type" is missing: give each event a "type"`}}}}},
		}},
	}
}

func (sf *surface) describePostEvents() *huma.Operation {
	example := exampleEvents()
	cloud := map[string]any{"specversion": "1.0", "id": "r-17-0001", "source": "sensors/eu/17", "type": "device.reading",
		"time": "2026-11-22T08:30:00Z", "data": map[string]any{"celsius": 21.5}}
	object := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}
	op := &huma.Operation{
		OperationID: "postEvents", Method: http.MethodPost, Path: "/events", Tags: []string{"Events"},
		Summary: "Send events",
		Description: "A JSON array, {\"events\":[…]}, NDJSON, or CloudEvents 1.0, plain or compressed. A bad event does not spoil its batch: " +
			"it becomes a dead letter and is named in the answer. What was answered 202 survives a crash. " +
			"Give events ids, and a request may be repeated without doubling them.",
		Parameters: []*huma.Param{{Name: "Content-Encoding", In: "header", Description: "How the body is compressed.",
			Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"identity", "gzip", "zstd"}}, Example: "gzip"}},
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/json": {
				Schema: &huma.Schema{OneOf: []*huma.Schema{
					{Type: huma.TypeArray, Items: schemaOf[newEvent](sf)}, schemaOf[eventBatch](sf)}},
				Examples: map[string]*huma.Example{
					"array":  {Summary: "An array", Value: example},
					"object": {Summary: "An object", Value: map[string]any{"events": example}}},
			},
			"application/x-ndjson": {Schema: &huma.Schema{Type: huma.TypeString, Description: "One event a line."},
				Example: "{\"id\":\"r-17-0001\",\"type\":\"device.reading\",\"payload\":{\"celsius\":21.5}}\n{\"type\":\"device.online\"}\n"},
			"application/cloudevents+json":       {Schema: object, Example: cloud},
			"application/cloudevents-batch+json": {Schema: &huma.Schema{Type: huma.TypeArray, Items: object}, Example: []any{cloud}},
		}},
		Responses: map[string]*huma.Response{"202": sf.accepted()},
	}
	secure(op, auth.ScopeEventsWrite)
	problemResponses(op.Responses, slugMalformedBody, slugWrongShape, slugTruncatedBody, slugCorruptEncoding,
		auth.CodeTokenMissing, auth.CodeTokenExpired, slugScopeMissing, slugSlowBody, slugBodyTooLarge, slugTooManyEvents,
		slugMediaType, slugEncoding, slugEmptyBatch, slugNoValidEvents, slugRateLimited, slugInternal,
		"backlog-full", "disk-full", "stream-away", slugOverloaded, slugOutcomeUnknown)
	return op
}

func (sf *surface) describePostHook() *huma.Operation {
	op := &huma.Operation{
		OperationID: "postHook", Method: http.MethodPost, Path: "/hooks/{source}", Tags: []string{"Events"},
		Summary: "Deliver a webhook",
		Description: "For senders that cannot wrap their events. The raw body becomes the payload of one event once the signature of the " +
			"source's scheme (GitHub, Stripe, Standard Webhooks) holds; the signature is the credential.",
		Parameters: []*huma.Param{{Name: "source", In: "path", Required: true, Description: "The configured source.",
			Schema: &huma.Schema{Type: huma.TypeString}, Example: "github"}},
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/json": {Schema: &huma.Schema{}, Example: map[string]any{"action": "opened", "number": 7}}}},
		Responses: map[string]*huma.Response{"202": sf.accepted()},
	}
	problemResponses(op.Responses, slugMalformedBody, slugWebhookPayload, slugTruncatedBody, slugHookUnverified, slugHookUnknown,
		slugSlowBody, slugBodyTooLarge, slugEncoding, slugRateLimited, slugInternal, "backlog-full", slugOutcomeUnknown)
	return op
}

func (sf *surface) describeTail() *huma.Operation {
	op := &huma.Operation{
		OperationID: "tailEvents", Method: http.MethodGet, Path: "/events/tail", Tags: []string{"Events"},
		Summary: "Follow events live",
		Description: "Server-sent events: each has the event as data and a cursor as id. A reader that reconnects with Last-Event-ID misses nothing. " +
			"The stream ends with the credential, also when it is revoked, and with an event of its own, called end, when the server goes down.",
		Parameters: []*huma.Param{typeParam(), queryParam("cursor", "Go on after this id.", &huma.Schema{Type: huma.TypeString}, nil),
			{Name: "Last-Event-ID", In: "header", Description: "Go on after this id; goes before cursor.", Schema: &huma.Schema{Type: huma.TypeString}}},
		Responses: map[string]*huma.Response{"200": {
			Description: "The stream. A comment every few seconds shows that it is alive.",
			Content: map[string]*huma.MediaType{"text/event-stream": {
				Schema: &huma.Schema{Type: huma.TypeString},
				Example: "retry: 2000\n\nid: 18f3a\nevent: event\ndata: {\"id\":\"r-17-0001\",\"type\":\"device.reading\",\"tenantId\":\"demo\"," +
					"\"timestamp\":\"2026-11-22T08:30:00Z\",\"receivedAt\":\"2026-11-22T08:30:00.041Z\",\"payload\":{\"celsius\":21.5}}\n\n",
			}},
		}},
	}
	secure(op, auth.ScopeEventsRead)
	problemResponses(op.Responses, slugInvalidParameter, auth.CodeTokenMissing, slugScopeMissing, slugTooManyStreams, slugNotImplemented, slugInternal, "shutting-down")
	return op
}

func (sf *surface) describeServer(doc *huma.OpenAPI) {
	tags := []string{"Server"}
	jsonOf := func(schema *huma.Schema, example any) map[string]*huma.MediaType {
		return map[string]*huma.MediaType{"application/json": {Schema: schema, Example: example}}
	}
	ready := schemaOf[readyState](sf)
	ok := map[string]any{"status": "ready", "checks": []any{map[string]any{"name": "log", "status": "ok", "jobs": []any{"events"}}}}
	failing := map[string]any{"status": "not-ready", "checks": []any{map[string]any{"name": "log", "status": "failing",
		"detail": "the log is at 93 % of its bound", "jobs": []any{"events"}}}}
	probes := func() map[string]*huma.Response {
		return map[string]*huma.Response{
			"200": {Description: "Every part can serve.", Content: jsonOf(ready, ok)},
			"503": {Description: "A part cannot.", Content: jsonOf(ready, failing)},
		}
	}
	doc.AddOperation(&huma.Operation{OperationID: "livez", Method: http.MethodGet, Path: "/livez", Tags: tags,
		Summary: "Whether the process answers", Responses: map[string]*huma.Response{
			"200": {Description: "It does.", Content: jsonOf(schemaOf[liveState](sf), map[string]any{"status": "alive"})}}})
	doc.AddOperation(&huma.Operation{OperationID: "readyz", Method: http.MethodGet, Path: "/readyz", Tags: tags,
		Summary: "Whether this instance can serve", Description: "Each part's state. It fails while the server drains.", Responses: probes()})
	job := probes()
	problemResponses(job, slugNotFound)
	doc.AddOperation(&huma.Operation{OperationID: "readyzJob", Method: http.MethodGet, Path: "/readyz/{job}", Tags: tags,
		Summary: "Whether this instance can do one job", Description: "Events are still accepted while the database is away, so ask for the job you need.",
		Parameters: []*huma.Param{{Name: "job", In: "path", Required: true, Description: "The job.", Schema: &huma.Schema{Type: huma.TypeString}, Example: "events"}},
		Responses:  job})
	doc.AddOperation(&huma.Operation{OperationID: "openapi", Method: http.MethodGet, Path: "/openapi.json", Tags: tags,
		Summary: "This description as OpenAPI 3.1", Responses: map[string]*huma.Response{
			"200": {Description: "The document.", Content: map[string]*huma.MediaType{
				"application/openapi+json": {Schema: &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}}}}}})
	doc.AddOperation(&huma.Operation{OperationID: "docs", Method: http.MethodGet, Path: "/docs", Tags: tags,
		Summary: "This description as a page", Responses: map[string]*huma.Response{
			"200": {Description: "The page.", Content: map[string]*huma.MediaType{"text/html": {Schema: &huma.Schema{Type: huma.TypeString}}}}}})
}
