package httpapi

import (
	"strings"
	"testing"
)

// TestABodyIsTakenAsItIsWrittenOrNotAtAll: what encoding/json would put right in
// silence ends in another refund, price or stock than was asked for.
func TestABodyIsTakenAsItIsWrittenOrNotAtAll(t *testing.T) {
	const refunds = "POST /orders/" + testOrderID + "/refunds"
	for name, c := range map[string]struct {
		request, body, slug, location, message string
	}{
		"null for all that is left":          {refunds, `{"amount":null}`, slugInvalidBody, "body.amount", "is null"},
		"an amount and then null":            {refunds, `{"amount":500,"amount":null}`, slugInvalidBody, "body.amount", "is there twice"},
		"two amounts":                        {refunds, `{"amount":1,"amount":2}`, slugInvalidBody, "body.amount", "is there twice"},
		"two amounts, one of them escaped":   {refunds, `{"amount":1,"\u0061mount":2}`, slugInvalidBody, "body.amount", "is there twice"},
		"an amount and one in other letters": {refunds, `{"amount":500,"Amount":null}`, slugInvalidBody, "body.Amount", "is not known here; the members are amount, reason, restock"},
		"an amount in other letters alone":   {refunds, `{"AMOUNT":500}`, slugInvalidBody, "body.AMOUNT", "is not known here"},
		"an amount with a fraction":          {refunds, `{"amount":2.0}`, slugInvalidBody, "body.amount", "is 2.0; give a whole number"},
		"an amount with an exponent":         {refunds, `{"amount":1e3}`, slugInvalidBody, "body.amount", "is 1e3; give a whole number"},
		"an amount beyond all numbers":       {refunds, `{"amount":9223372036854775808}`, slugInvalidBody, "body.amount", "out of range"},
		"half a character":                   {refunds, `{"reason":"\ud83d"}`, slugInvalidBody, "body.reason", "half of a surrogate pair"},
		"half a character in a name":         {refunds, `{"\udc00":1}`, slugInvalidBody, "body.\ufffd", "half of a surrogate pair"},
		"null for the whole":                 {refunds, `null`, slugInvalidBody, "body", "is null"},
		"a list for the whole":               {refunds, `[1]`, slugInvalidBody, "body", "expected object"},
		"bytes that are not UTF-8":           {refunds, "{\"reason\":\"\xff\"}", slugMalformedBody, "", "not valid UTF-8"},
		"no JSON":                            {refunds, `{"amount":5`, slugMalformedBody, "", "at byte 11"},
		"two values":                         {refunds, `{"amount":5} {}`, slugMalformedBody, "", "after top-level value"},

		"two prices":                    {"PUT /products/tee", `{"names":{"en":"x"},"price":{"amount":1,"currency":"EUR"},"price":{"amount":2,"currency":"EUR"}}`, slugInvalidBody, "body.price", "twice"},
		"a price in other letters":      {"PUT /products/tee", `{"names":{"en":"x"},"Price":{"amount":2,"currency":"EUR"}}`, slugInvalidBody, "body.Price", "is not known here"},
		"two amounts of a price":        {"PUT /products/tee", `{"names":{"en":"x"},"price":{"amount":1,"amount":2,"currency":"EUR"}}`, slugInvalidBody, "body.price.amount", "twice"},
		"two names of a language":       {"PUT /products/tee", `{"names":{"en":"x","en":"y"},"price":{"amount":1,"currency":"EUR"}}`, slugInvalidBody, "body.names.en", "twice"},
		"a name that is not UTF-8":      {"PUT /products/tee", "{\"names\":{\"en\":\"\xe9\"},\"price\":{\"amount\":1,\"currency\":\"EUR\"}}", slugMalformedBody, "", "not valid UTF-8"},
		"half a character in a product": {"PUT /products/tee", `{"names":{"en":"\ud83d!"},"price":{"amount":1,"currency":"EUR"}}`, slugInvalidBody, "body.names.en", "half of a surrogate pair"},
		"an attribute twice, far down":  {"PUT /products/tee", `{"names":{"en":"x"},"price":{"amount":1,"currency":"EUR"},"attributes":{"a":[{"b":{"c":1,"c":2}}]}}`, slugInvalidBody, "body.attributes.a[0].b.c", "twice"},
		"what is on hand twice":         {"PUT /stock/tee", `{"onHand":100,"onHand":1}`, slugInvalidBody, "body.onHand", "twice"},
		"what is on hand, and louder":   {"PUT /stock/tee", `{"onHand":100,"ONHAND":1}`, slugInvalidBody, "body.ONHAND", "is not known here; the members are onHand"},
		"no stock":                      {"PUT /stock/tee", `{"onHand":null}`, slugInvalidBody, "body.onHand", "is null"},
		"scopes in other letters":       {"POST /keys", `{"name":"x","scopes":["events:read"],"Scopes":["admin"]}`, slugInvalidBody, "body.Scopes", "is not known here"},
		"a scope of null":               {"POST /keys", `{"name":"x","scopes":[null]}`, slugInvalidBody, "body.scopes[0]", "is null"},
		"an endpoint's address twice":   {"PUT /webhook-endpoints/w", `{"url":"https://a.example","url":"https://b.example"}`, slugInvalidBody, "body.url", "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.orders.set(aStoredOrder())
			method, target, _ := strings.Cut(c.request, " ")
			status := 422
			if c.slug == slugMalformedBody {
				status = 400
			}
			p := wantProblem(t, f.call(method, target, c.body, "Idempotency-Key", "k"), status, c.slug)
			if !strings.Contains(p.Detail, c.message) {
				t.Errorf("detail %q, want it to tell of %q", p.Detail, c.message)
			}
			if c.location != "" && (len(p.Errors) == 0 || p.Errors[0].Location != c.location) {
				t.Errorf("%+v, want an error at %s", p.Errors, c.location)
			}
			if f.orders.refund.OrderID != "" || len(f.catalog.products) != 0 || len(f.stock.levels) != 0 {
				t.Error("something was done all the same")
			}
		})
	}
}

func TestWhatIsWrittenAsTheSchemaSaysIsTaken(t *testing.T) {
	f := newFixture(t)
	f.orders.set(aStoredOrder())
	for _, c := range []struct{ request, body string }{
		{"POST /orders/" + testOrderID + "/refunds", ` { "amount" : 500 , "restock":true,"reason":"\ud83d\ude00" } `},
		{"POST /orders/" + testOrderID + "/refunds", ``},
		{"PUT /products/tee", `{"names":{"en":"x","EN":"y"},"price":{"amount":1,"currency":"EUR"},"attributes":{"a":[{"b":null,"B":[1.5,2e9]}]},"active":true}`},
		{"PUT /products/mug", `{"names":{"en":"x"},"descriptions":{},"price":{"amount":1,"currency":"EUR"},"attributes":null}`},
		{"PUT /stock/tee", `{"onHand":0}`},
		{"PUT /webhook-endpoints/w", `{"url":"https://a.example","events":null}`},
	} {
		method, target, _ := strings.Cut(c.request, " ")
		if w := f.call(method, target, c.body, "Idempotency-Key", "k"); w.Code >= 300 {
			t.Errorf("%s %s: %d %s", c.request, c.body, w.Code, w.Body)
		}
	}
	if f.orders.refund.Amount != 0 { // of the second one
		t.Errorf("refund %+v", f.orders.refund)
	}
}

func TestALineOfAnImportIsTakenAsItIsWrittenOrNotAtAll(t *testing.T) {
	f := newFixture(t)
	for target, lines := range map[string][][2]string{
		"/control/import/stock?importId=i": {
			{`{"line":1,"sku":"a","onHand":5,"onHand":6}`, "onHand: is there twice"},
			{`{"line":1,"sku":"a","onHand":5,"ONHAND":6}`, "ONHAND: is not known here; the members are delta, line, onHand, sku"},
			{`{"line":1,"sku":"a","delta":null,"onHand":1}`, "delta: is null"},
			{`{"line":1,"sku":"a","onHand":2.0}`, "onHand: is 2.0; give a whole number"},
			{`{"line":1,"SKU":"a","onHand":2}`, "SKU: is not known here"},
			{`[1]`, "is array; write a JSON object"},
		},
		"/control/import/products": {
			{`{"line":1,"sku":"a","names":{"en":"\udead"},"price":{"amount":1,"currency":"EUR"}}`, "names.en: holds half"},
			{"{\"line\":1,\"sku\":\"a\",\"names\":{\"en\":\"\xff\"},\"price\":{\"amount\":1,\"currency\":\"EUR\"}}", "not valid UTF-8"},
			{`{"line":1,"sku":"a","names":{"en":"x"},"price":{"amount":1,"Amount":2,"currency":"EUR"}}`, "price.Amount: is not known here"},
		},
	} {
		for _, line := range lines {
			w := f.callOn(f.server.ControlHandler(), "POST", target, line[0], tenantHeader, "demo")
			if w.Code != 200 || !strings.Contains(w.Body.String(), `"applied":false,"error":"`) || !strings.Contains(w.Body.String(), line[1]) {
				t.Errorf("%s: %d %s, want %q", line[0], w.Code, w.Body, line[1])
			}
		}
	}
	if len(f.catalog.products) != 0 || len(f.stock.levels) != 0 {
		t.Error("something was applied all the same")
	}
}

func TestWhatIsWrongDeepInABodyIsToldWithoutItsWholePath(t *testing.T) {
	f := newFixture(t)
	for _, c := range [][2]string{{`{"a":`, "}"}, {`[`, "]"}} {
		deep := `{"x":` + strings.Repeat(c[0], 9000) + `{"b":1,"b":2}` + strings.Repeat(c[1], 9000) + "}"
		p := wantProblem(t, f.call("PUT", "/products/tee", strings.Replace(aProduct, `{"size":"M"}`, deep, 1)), 422, slugInvalidBody)
		if len(p.Errors) != 1 || len(p.Errors[0].Location) > 300 || !strings.HasPrefix(p.Errors[0].Location, "body.attributes.x") || !strings.HasSuffix(p.Errors[0].Location, ".b") {
			t.Errorf("%+v", p.Errors)
		}
	}
}
