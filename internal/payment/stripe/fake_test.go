package stripe_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// fakeStripe behaves over time like Stripe: it keeps idempotency keys with their
// answers, and payment intents with their states. What an intent does when it is
// confirmed depends on its payment method:
//
//	pm_ok                succeeds
//	pm_declined          is refused with insufficient_funds
//	pm_3ds               requires the buyer's action
//	pm_processing        is processing
//	pm_timeout           hangs, nothing done, the first time
//	pm_timeout_captured  succeeds and hangs, the first time
//	pm_unconfirmable     is an invalid request
//	pm_missing           cannot even be attached at creation
//	pm_blocked           is refused by the bank at creation
type fakeStripe struct {
	server *httptest.Server

	mu      sync.Mutex
	intents map[string]*fakeIntent
	order   []*fakeIntent
	refunds []*fakeRefund
	// refundStatus is what new refunds are in.
	refundStatus string
	keys         map[string]*fakeAnswer
	hung         map[string]bool
	log          []string                                                 // method and path of each request
	hook         func(w http.ResponseWriter, r *http.Request) (done bool) // before anything else, without the lock
	break5       map[string]int                                           // paths whose next executions end in a saved 500
}

type fakeIntent struct {
	ID, Status, Method, Currency, Cancellation string
	Amount                                     int64
	Metadata                                   map[string]string
	LastError                                  map[string]any
	Captures                                   int
}

type fakeRefund struct {
	ID, Intent, Status string
	Amount             int64
	Metadata           map[string]string
}

type fakeAnswer struct {
	params string
	done   bool
	status int
	body   []byte
}

func newFake(t testing.TB) *fakeStripe {
	f := &fakeStripe{refundStatus: "succeeded", intents: map[string]*fakeIntent{}, keys: map[string]*fakeAnswer{}, hung: map[string]bool{}, break5: map[string]int{}}
	f.server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.server.Close)
	return f
}

func (f *fakeStripe) serve(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	f.mu.Lock()
	f.log = append(f.log, r.Method+" "+r.URL.Path)
	hook := f.hook
	f.mu.Unlock()
	w.Header().Set("Request-Id", "req_1")
	if hook != nil && hook(w, r) {
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+secretKey {
		write(w, 401, failure("invalid_request_error", "", "Invalid API Key provided: "+r.Header.Get("Authorization")))
		return
	}
	key := r.Header.Get("Idempotency-Key")
	if r.Method != http.MethodPost || key == "" {
		status, body, _ := f.execute(r)
		write(w, status, body)
		return
	}
	params := r.URL.Path + "?" + r.PostForm.Encode()
	f.mu.Lock()
	known := f.keys[key]
	switch {
	case known != nil && known.params != params:
		f.mu.Unlock()
		write(w, 400, failure("idempotency_error", "", "Keys for idempotent requests can only be used with the same parameters"))
		return
	case known != nil && !known.done:
		f.mu.Unlock()
		write(w, 409, failure("invalid_request_error", "idempotency_key_in_use", "There is currently another in-progress request"))
		return
	case known != nil:
		status, body := known.status, known.body
		f.mu.Unlock()
		w.Header().Set("Idempotent-Replayed", "true")
		write(w, status, body)
		return
	}
	answer := &fakeAnswer{params: params}
	f.keys[key] = answer
	f.mu.Unlock()
	status, body, hang := f.execute(r)
	f.mu.Lock()
	if status == 0 { // nothing was done
		delete(f.keys, key)
	} else {
		answer.done, answer.status, answer.body = true, status, body
	}
	f.mu.Unlock()
	if hang {
		<-r.Context().Done()
		return
	}
	write(w, status, body)
}

func write(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func failure(kind, code, message string, more ...any) []byte {
	e := map[string]any{"type": kind, "code": code, "message": message}
	for i := 0; i < len(more); i += 2 {
		e[more[i].(string)] = more[i+1]
	}
	body, _ := json.Marshal(map[string]any{"error": e})
	return body
}

func (f *fakeStripe) execute(r *http.Request) (status int, body []byte, hang bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.break5[r.URL.Path] > 0 {
		f.break5[r.URL.Path]--
		return 500, failure("api_error", "", "something went wrong"), false
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/") // v1 payment_intents id verb
	if parts[1] == "refunds" {
		return f.executeRefund(r)
	}
	switch {
	case len(parts) == 2:
		return f.create(r)
	case parts[2] == "search":
		return f.search(r)
	}
	i := f.intents[parts[2]]
	if i == nil {
		return 404, failure("invalid_request_error", "resource_missing", "No such payment_intent: '"+parts[2]+"'", "param", "intent"), false
	}
	if len(parts) == 3 {
		for name, value := range metadataOf(r) {
			i.Metadata[name] = value
		}
		return 200, f.render(i), false
	}
	if parts[3] == "cancel" {
		switch i.Status {
		case "succeeded", "canceled", "processing":
			return 400, failure("invalid_request_error", "payment_intent_unexpected_state", "You cannot cancel this PaymentIntent"), false
		}
		i.Status, i.Cancellation = "canceled", r.PostForm.Get("cancellation_reason")
		return 200, f.render(i), false
	}
	return f.confirm(i)
}

func (f *fakeStripe) create(r *http.Request) (int, []byte, bool) {
	method := r.PostForm.Get("payment_method")
	if method == "pm_missing" {
		return 400, failure("invalid_request_error", "resource_missing", "No such PaymentMethod: 'pm_missing'", "param", "payment_method"), false
	}
	if method == "pm_blocked" {
		return 402, failure("card_error", "card_declined", "Your card was declined.", "decline_code", "stolen_card"), false
	}
	amount, _ := strconv.ParseInt(r.PostForm.Get("amount"), 10, 64)
	i := &fakeIntent{ID: fmt.Sprint("pi_", len(f.intents)+1), Status: "requires_confirmation", Method: method,
		Amount: amount, Currency: r.PostForm.Get("currency"), Metadata: metadataOf(r)}
	f.intents[i.ID] = i
	f.order = append(f.order, i)
	return 200, f.render(i), false
}

func (f *fakeStripe) confirm(i *fakeIntent) (int, []byte, bool) {
	if i.Status != "requires_confirmation" && i.Status != "requires_payment_method" {
		return 400, failure("invalid_request_error", "payment_intent_unexpected_state", "You cannot confirm this PaymentIntent"), false
	}
	firstTime := !f.hung[i.ID]
	switch i.Method {
	case "pm_declined":
		i.Status = "requires_payment_method"
		i.LastError = map[string]any{"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds", "message": "Your card has insufficient funds."}
		return 402, failure("card_error", "card_declined", "Your card has insufficient funds.", "decline_code", "insufficient_funds",
			"payment_intent", map[string]any{"id": i.ID, "client_secret": clientSecret}), false
	case "pm_3ds":
		i.Status = "requires_action"
		return 200, f.render(i), false
	case "pm_processing":
		i.Status = "processing"
		return 200, f.render(i), false
	case "pm_unconfirmable":
		return 400, failure("invalid_request_error", "parameter_invalid", "no: "+clientSecret, "param", "payment_method"), false
	case "pm_timeout":
		if f.hung[i.ID] = true; firstTime {
			return 0, nil, true
		}
	}
	i.Status = "succeeded"
	i.Captures++
	f.hung[i.ID] = true
	return 200, f.render(i), i.Method == "pm_timeout_captured" && firstTime
}

func (f *fakeStripe) search(r *http.Request) (int, []byte, bool) {
	_, key, _ := strings.Cut(r.Form.Get("query"), "metadata['key']:'")
	key = strings.TrimSuffix(key, "'")
	data := []json.RawMessage{}
	for _, i := range f.order {
		if i.Metadata["key"] == key {
			data = append(data, f.render(i))
		}
	}
	body, _ := json.Marshal(map[string]any{"object": "search_result", "data": data, "has_more": false})
	return 200, body, false
}

func (f *fakeStripe) executeRefund(r *http.Request) (int, []byte, bool) {
	id := r.Form.Get("payment_intent")
	if r.Method == http.MethodGet {
		data := []json.RawMessage{}
		for _, refund := range f.refunds {
			if refund.Intent == id {
				data = append(data, renderRefund(refund, f.intents[id]))
			}
		}
		body, _ := json.Marshal(map[string]any{"object": "list", "data": data, "has_more": false})
		return 200, body, false
	}
	i := f.intents[id]
	amount, _ := strconv.ParseInt(r.PostForm.Get("amount"), 10, 64)
	switch {
	case i == nil || i.Status != "succeeded":
		return 400, failure("invalid_request_error", "payment_intent_unexpected_state", "This PaymentIntent does not have a successful charge to refund."), false
	case amount > i.Amount-f.refundedOf(id):
		return 400, failure("invalid_request_error", "", "Refund amount is greater than unrefunded amount on charge", "param", "amount"), false
	}
	refund := &fakeRefund{ID: fmt.Sprint("re_", len(f.refunds)+1), Intent: id, Status: f.refundStatus, Amount: amount, Metadata: metadataOf(r)}
	f.refunds = append(f.refunds, refund)
	return 200, renderRefund(refund, i), false
}

func (f *fakeStripe) refundedOf(intent string) (sum int64) {
	for _, refund := range f.refunds {
		if refund.Intent == intent {
			sum += refund.Amount
		}
	}
	return sum
}

func (f *fakeStripe) render(i *fakeIntent) []byte {
	m := map[string]any{"object": "payment_intent", "id": i.ID, "status": i.Status, "amount": i.Amount, "currency": i.Currency,
		"metadata": i.Metadata, "client_secret": clientSecret}
	if i.Status == "succeeded" {
		m["amount_received"] = i.Amount
		m["latest_charge"] = map[string]any{"object": "charge", "id": "ch_" + i.ID, "amount_refunded": f.refundedOf(i.ID)}
	}
	if i.Cancellation != "" {
		m["cancellation_reason"] = i.Cancellation
	}
	if i.LastError != nil {
		m["last_payment_error"] = i.LastError
	}
	body, _ := json.Marshal(m)
	return body
}

func renderRefund(r *fakeRefund, i *fakeIntent) []byte {
	body, _ := json.Marshal(map[string]any{"object": "refund", "id": r.ID, "status": r.Status, "amount": r.Amount,
		"currency": i.Currency, "metadata": r.Metadata})
	return body
}

func metadataOf(r *http.Request) map[string]string {
	m := map[string]string{}
	for name, values := range r.PostForm {
		if inner, ok := strings.CutPrefix(name, "metadata["); ok {
			m[strings.TrimSuffix(inner, "]")] = values[0]
		}
	}
	return m
}

// forget drops every idempotency key, as Stripe does after a day.
func (f *fakeStripe) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys = map[string]*fakeAnswer{}
}

func (f *fakeStripe) change(id string, change func(*fakeIntent)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f.intents[id])
}

func (f *fakeStripe) on(hook func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

func (f *fakeStripe) captures(key string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range f.order {
		if i.Metadata["key"] == key {
			n += i.Captures
		}
	}
	return n
}

func (f *fakeStripe) refunded(key string) (sum int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range f.order {
		if i.Metadata["key"] == key {
			sum += f.refundedOf(i.ID)
		}
	}
	return sum
}

// requests returns the method and path of every request so far.
func (f *fakeStripe) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

func (f *fakeStripe) intent(id string) fakeIntent {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *f.intents[id]
}
