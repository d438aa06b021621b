package httpapi

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"millrace/internal/audit"
	"millrace/internal/fulfilment"
	"millrace/internal/order"
	"millrace/internal/payment"
)

func openapi(t *testing.T, f *fixture) map[string]any {
	t.Helper()
	w := f.call("GET", "/openapi.json", "", "Authorization", "")
	if w.Code != 200 {
		t.Fatalf("status %d", w.Code)
	}
	var doc map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestEveryRouteIsDescribedAndEveryDescriptionIsARoute(t *testing.T) {
	f := newFixture(t)
	var described, served []string
	for path, item := range openapi(t, f)["paths"].(map[string]any) {
		for method := range item.(map[string]any) {
			described = append(described, strings.ToUpper(method)+" "+path)
		}
	}
	for _, rt := range f.server.public.routes {
		served = append(served, rt.pattern)
	}
	slices.Sort(described)
	slices.Sort(served)
	if !slices.Equal(described, served) {
		t.Errorf("described %q\nserved %q", described, served)
	}
}

// pathParam finds the parameters in a path.
var pathParam = regexp.MustCompile(`\{([^}]+)\}`)

func TestTheDescriptionIsValidOpenAPI31(t *testing.T) {
	f := newFixture(t)
	doc := openapi(t, f)
	if doc["openapi"] != "3.1.0" {
		t.Errorf("openapi is %v", doc["openapi"])
	}
	info := doc["info"].(map[string]any)
	if info["title"] == "" || info["version"] == "" {
		t.Errorf("info %v", info)
	}
	ids := map[string]string{}
	for path, item := range doc["paths"].(map[string]any) {
		if !strings.HasPrefix(path, "/") {
			t.Errorf("path %q does not begin with a slash", path)
		}
		for method, v := range item.(map[string]any) {
			op, where := v.(map[string]any), method+" "+path
			id, _ := op["operationId"].(string)
			if id == "" || ids[id] != "" {
				t.Errorf("%s: operationId %q is empty or that of %s", where, id, ids[id])
			}
			ids[id] = where
			if op["summary"] == nil || op["tags"] == nil {
				t.Errorf("%s has no summary or no tag", where)
			}
			checkParams(t, where, path, op)
			checkResponses(t, where, op)
		}
	}
	checkRefs(t, doc, doc)
}

func checkParams(t *testing.T, where, path string, op map[string]any) {
	t.Helper()
	inPath, seen := map[string]bool{}, map[string]bool{}
	params, _ := op["parameters"].([]any)
	for _, v := range params {
		p := v.(map[string]any)
		name, in := p["name"].(string), p["in"].(string)
		if seen[in+name] {
			t.Errorf("%s: parameter %s in %s is there twice", where, name, in)
		}
		seen[in+name] = true
		if !slices.Contains([]string{"path", "query", "header", "cookie"}, in) || p["schema"] == nil || p["description"] == nil {
			t.Errorf("%s: parameter %s has no place, schema or description: %v", where, name, p)
		}
		if in == "path" {
			inPath[name] = true
			if p["required"] != true {
				t.Errorf("%s: path parameter %s is not required", where, name)
			}
		}
	}
	var want int
	for _, m := range pathParam.FindAllStringSubmatch(path, -1) {
		want++
		if !inPath[m[1]] {
			t.Errorf("%s: %s is not described", where, m[1])
		}
	}
	if len(inPath) != want {
		t.Errorf("%s: path parameters %v", where, inPath)
	}
}

func checkResponses(t *testing.T, where string, op map[string]any) {
	t.Helper()
	responses, _ := op["responses"].(map[string]any)
	success := false
	for status, v := range responses {
		if !regexp.MustCompile(`^[1-5]\d\d$|^default$`).MatchString(status) {
			t.Errorf("%s: response %q", where, status)
		}
		success = success || status[0] == '2'
		r := v.(map[string]any)
		if d, _ := r["description"].(string); d == "" {
			t.Errorf("%s: response %s has no description", where, status)
		}
		if status[0] == '4' || status == "500" {
			content := r["content"].(map[string]any)
			if content["application/problem+json"] == nil || len(content) != 1 {
				t.Errorf("%s: response %s is no problem: %v", where, status, content)
			}
		}
	}
	if !success {
		t.Errorf("%s has no response that is a success", where)
	}
	if op["security"] != nil && (responses["401"] == nil || responses["403"] == nil) {
		t.Errorf("%s asks for a credential but describes no 401 and 403", where)
	}
}

// checkRefs follows every reference of the document.
func checkRefs(t *testing.T, doc map[string]any, v any) {
	t.Helper()
	switch v := v.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			var at any = doc
			for _, step := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
				m, _ := at.(map[string]any)
				at = m[step]
			}
			if at == nil {
				t.Errorf("%s leads nowhere", ref)
			}
		}
		for _, child := range v {
			checkRefs(t, doc, child)
		}
	case []any:
		for _, child := range v {
			checkRefs(t, doc, child)
		}
	}
}

func TestEveryExampleFitsItsSchema(t *testing.T) {
	f := newFixture(t)
	doc := f.server.public.api.OpenAPI()
	checked := 0
	check := func(where string, media *huma.MediaType) {
		t.Helper()
		examples := map[string]any{}
		if media.Example != nil {
			examples["example"] = media.Example
		}
		for name, e := range media.Examples {
			examples[name] = e.Value
		}
		for name, example := range examples {
			raw, err := json.Marshal(example)
			if err != nil {
				t.Fatal(err)
			}
			var value any
			if err := json.Unmarshal(raw, &value); err != nil {
				t.Fatal(err)
			}
			media.Schema.PrecomputeMessages()
			res := &huma.ValidateResult{}
			huma.Validate(doc.Components.Schemas, media.Schema, huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, value, res)
			if len(res.Errors) > 0 {
				t.Errorf("%s %s: %v", where, name, res.Errors)
			}
			checked++
		}
	}
	for _, path := range paths(doc) {
		for _, op := range operations(doc.Paths[path]) {
			if op.RequestBody != nil {
				for ct, media := range op.RequestBody.Content {
					check(op.OperationID+" request "+ct, media)
				}
			}
			for status, r := range op.Responses {
				for ct, media := range r.Content {
					check(fmt.Sprint(op.OperationID, " ", status, " ", ct), media)
				}
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d examples were checked", checked)
	}
}

func TestAnswersFitTheirSchemas(t *testing.T) {
	f := newFixture(t)
	doc := f.server.public.api.OpenAPI()
	f.reader.events = append(f.reader.events, stored("1", `{"a":1}`))
	f.orders.set(aStoredOrder())
	f.orders.page = order.Page{Orders: []order.Order{aStoredOrder()}}
	f.orders.history = []order.HistoryEntry{{Version: 2, At: testNow, Event: order.EventCancelAsked, From: order.Placed, To: order.Cancelled, Actor: "ops", Reason: "why"}}
	f.stock.put("tee", 10, 3)
	f.call("PUT", "/products/tee", aProduct)
	f.call("PUT", "/webhook-endpoints/wh", `{"url":"https://a.example"}`)
	f.endpoints.deliveries = []fulfilment.Delivery{{ID: "1", EventType: "order.paid", OrderID: "o", CreatedAt: testNow, NextAttempt: testNow}}
	f.shop.audit.entries = []audit.Entry{{ID: "1", At: testNow, Actor: audit.Actor{Subject: "ops"}, Action: "a", Object: "o", After: []byte(`{"a":1}`)}}
	f.ledger.charges = []SandboxCharge{{Key: "k", OrderID: "o", State: payment.StateCaptured, Currency: "EUR", Refunds: []SandboxRefund{{Key: "r", Ref: "x"}}}}
	for _, c := range []struct{ method, target, body, op, status string }{
		{"POST", "/events", `[{"type":"a"},{}]`, "/events", "202"},
		{"GET", "/events", "", "/events", "200"},
		{"GET", "/events/1", "", "/events/{id}", "200"},
		{"GET", "/readyz", "", "/readyz", "200"},
		{"GET", "/livez", "", "/livez", "200"},
		{"GET", "/events?limit=x", "", "/events", "400"},
		{"POST", "/events", `{`, "/events", "400"},
		{"POST", "/keys", `{"name":"n","scopes":["admin"]}`, "/keys", "201"},
		{"GET", "/keys", "", "/keys", "200"},
		{"GET", "/dead-letters", "", "/dead-letters", "200"},
		{"POST", "/dead-letters/redrive", "", "/dead-letters/redrive", "200"},
		{"POST", "/orders", aSmallOrder, "/orders", "202"}, {"POST", "/orders", `{"x":1}`, "/orders", "422"},
		{"GET", "/orders", "", "/orders", "200"},
		{"GET", "/orders/" + testOrderID + "/status", "", "/orders/{id}/status", "200"}, {"GET", "/orders/" + testOrderID + "/history", "", "/orders/{id}/history", "200"},
		{"GET", "/orders/" + testOrderID, "", "/orders/{id}", "200"}, {"POST", "/orders/" + testOrderID + "/cancel", "", "/orders/{id}/cancel", "200"},
		{"POST", "/orders/" + testOrderID + "/refunds", "", "/orders/{id}/refunds", "202"}, {"POST", "/orders/" + testOrderID + "/shipments", "", "/orders/{id}/shipments", "201"},
		{"PUT", "/products/new", aProduct, "/products/{sku}", "201"}, {"GET", "/products/tee", "", "/products/{sku}", "200"}, {"GET", "/products", "", "/products", "200"},
		{"PUT", "/stock/new", `{"onHand":1}`, "/stock/{sku}", "201"}, {"PUT", "/stock/tee", `{"onHand":1}`, "/stock/{sku}", "428"},
		{"GET", "/stock", "", "/stock", "200"}, {"POST", "/stock/tee/adjustments", `{"delta":1,"reason":"in"}`, "/stock/{sku}/adjustments", "200"},
		{"PUT", "/webhook-endpoints/new", `{"url":"https://a.example"}`, "/webhook-endpoints/{id}", "201"}, {"GET", "/webhook-endpoints", "", "/webhook-endpoints", "200"},
		{"GET", "/webhook-endpoints/wh/deliveries", "", "/webhook-endpoints/{id}/deliveries", "200"},
		{"GET", "/audit", "", "/audit", "200"}, {"GET", "/sandbox/charges", "", "/sandbox/charges", "200"},
	} {
		w := f.call(c.method, c.target, c.body, "Idempotency-Key", "k-"+c.target)
		op := doc.Paths[c.op].Get
		switch c.method {
		case "POST":
			op = doc.Paths[c.op].Post
		case "PUT":
			op = doc.Paths[c.op].Put
		}
		ct := w.Header().Get("Content-Type")
		r := op.Responses[c.status]
		if fmt.Sprint(w.Code) != c.status || r == nil || r.Content[ct] == nil {
			t.Errorf("%s %s: status %d with %s is not described", c.method, c.target, w.Code, ct)
			continue
		}
		var value any
		if err := json.Unmarshal(w.Body.Bytes(), &value); err != nil {
			t.Fatal(err)
		}
		res := &huma.ValidateResult{}
		huma.Validate(doc.Components.Schemas, r.Content[ct].Schema, huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, value, res)
		if len(res.Errors) > 0 {
			t.Errorf("%s %s: %s: %v", c.method, c.target, w.Body, res.Errors)
		}
		schema := r.Content[ct].Schema
		if schema.Ref != "" {
			schema = doc.Components.Schemas.SchemaFromRef(schema.Ref)
		}
		if object, ok := value.(map[string]any); ok && len(schema.Properties) > 0 {
			for name := range object {
				if schema.Properties[name] == nil {
					t.Errorf("%s %s: the schema says nothing of the member %q", c.method, c.target, name)
				}
			}
		}
	}
}

func TestAnswersBesidesTheUsualOneAreDescribed(t *testing.T) {
	doc := newFixture(t).server.public.api.OpenAPI()
	for _, c := range []struct {
		op     *huma.Operation
		status string
	}{
		{doc.Paths["/products/{sku}"].Put, "201"}, {doc.Paths["/products/{sku}"].Get, "304"}, {doc.Paths["/stock/{sku}"].Put, "201"},
		{doc.Paths["/stock/{sku}"].Get, "304"}, {doc.Paths["/webhook-endpoints/{id}"].Put, "201"}, {doc.Paths["/orders/{id}/status"].Get, "304"},
	} {
		if r := c.op.Responses[c.status]; r == nil || r.Headers["ETag"] == nil {
			t.Errorf("%s has no %s with an ETag", c.op.OperationID, c.status)
		}
	}
}

func TestTheDocsPageShowsEverythingAndNeedsNoNetwork(t *testing.T) {
	f := newFixture(t)
	w := f.call("GET", "/docs", "", "Authorization", "")
	page := w.Body.String()
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Fatalf("status %d, %v", w.Code, w.Header())
	}
	policy := w.Header().Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %q", policy)
	}
	for _, m := range regexp.MustCompile(`(?i)(?:<[^>]*\b(?:src|href|action|data|poster|srcset)\s*=|\burl\()\s*["']?([^"'\s>)]+)`).FindAllStringSubmatch(page, -1) {
		if !strings.HasPrefix(m[1], "#") && m[1] != "/openapi.json" {
			t.Errorf("the page leads to %q", m[1])
		}
	}
	if strings.Contains(strings.ToLower(page), "<script") || strings.Contains(page, "@import") {
		t.Error("the page has a script or imports a style")
	}
	for _, rt := range f.server.public.routes {
		if !strings.Contains(page, `<span class="method `+rt.method+`">`+rt.method+`</span><span class="path">`+rt.path+`</span>`) {
			t.Errorf("%s is not on the page", rt.pattern)
		}
	}
	for _, kind := range problemKinds {
		if kind.status != statusClientGone && !strings.Contains(page, `id="problem-`+kind.slug+`"`) {
			t.Errorf("the problem %s is not on the page", kind.slug)
		}
	}
	ids := map[string]bool{}
	for _, m := range regexp.MustCompile(`id="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if ids[m[1]] {
			t.Errorf("the id %q is there twice", m[1])
		}
		ids[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`href="#([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if !ids[m[1]] {
			t.Errorf("#%s leads nowhere", m[1])
		}
	}
	// The style's hash in the policy must be that of what stands in the page.
	style := page[strings.Index(page, "<style>")+len("<style>") : strings.Index(page, "</style>")]
	if style != docsStyle {
		t.Error("the style was changed on its way into the page, so that the policy would block it")
	}
}

func TestEveryProblemTypeIsWellFormed(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range problemKinds {
		if !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(k.slug) || seen[k.slug] {
			t.Errorf("slug %q is malformed or there twice", k.slug)
		}
		seen[k.slug] = true
		if k.title == "" || k.about == "" || k.status < 400 || k.status > 599 {
			t.Errorf("%s: %+v", k.slug, k)
		}
	}
}
