package stripe_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/payment"
	"millrace/internal/payment/stripe"
)

// stripeMock is Stripe's own mock server. It keeps no state, but it checks every
// request against Stripe's description of its API.
const stripeMock = "github.com/stripe/stripe-mock@v0.203.0"

var listening = regexp.MustCompile(`(127\.0\.0\.1:\d+)`)

// startMock builds the mock server, starts it on a port of its own and returns its
// URL. Only Go and the module proxy are needed.
func startMock(t *testing.T) *url.URL {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, "go", "install", stripeMock)
	install.Dir = dir // outside of this module
	install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("cannot build Stripe's mock server (it comes from the module proxy): %v\n%s", err, out)
	}
	mock := exec.Command(filepath.Join(dir, "stripe-mock"), "-http-addr", "127.0.0.1:0")
	out, err := mock.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	mock.Stderr = mock.Stdout
	if err := mock.Start(); err != nil {
		t.Fatal(err)
	}
	// It ends with the test, and in no case outlives it by much.
	watchdog := time.AfterFunc(time.Minute, func() { _ = mock.Process.Kill() })
	t.Cleanup(func() {
		watchdog.Stop()
		_ = mock.Process.Kill()
		_ = mock.Wait()
	})
	var seen strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		seen.WriteString(lines.Text() + "\n")
		if address := listening.FindString(lines.Text()); address != "" {
			go func() {
				for lines.Scan() { // until it ends, so that it never blocks
				}
			}()
			return &url.URL{Scheme: "http", Host: address}
		}
	}
	t.Fatalf("Stripe's mock server did not say where it listens:\n%s", seen.String())
	return nil
}

// TestRequestsHaveTheShapeThatStripeDescribes sends every kind of request to
// Stripe's mock server, which answers 400 to parameters it does not know and 404
// to paths it does not know. Its answers are fixed examples, so a proxy before it
// puts in what an answer needs to lead to the next request.
func TestRequestsHaveTheShapeThatStripeDescribes(t *testing.T) {
	mock := startMock(t)
	var mu sync.Mutex
	answers := map[string]int{}
	status := "requires_confirmation"
	proxy := httputil.NewSingleHostReverseProxy(mock)
	proxy.ModifyResponse = func(r *http.Response) error {
		mu.Lock()
		defer mu.Unlock()
		path := regexp.MustCompile(`/pi_[^/]+`).ReplaceAllString(r.Request.URL.Path, "/{id}")
		answers[r.Request.Method+" "+path] = r.StatusCode
		return rewrite(r, status)
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	p := newProvider(t, stripe.Options{Key: "sk_test_123", BaseURL: server.URL})
	set := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		status = s
	}
	r := request("pm_card_visa")

	// The confirmation's answer still says requires_confirmation: that is the mock.
	if _, err := p.Charge(soon(t), r); err == nil || !strings.Contains(err.Error(), `"requires_confirmation" after it was confirmed`) {
		t.Errorf("charge: %v", err)
	}
	set("requires_action") // note and cancel
	if c, err := p.Charge(soon(t), r); err != nil || c.State != payment.StateNone {
		t.Errorf("charge that needs the buyer: %+v, %v", c, err)
	}
	set("requires_confirmation")
	if c, err := p.Lookup(soon(t), r); err != nil || c.State != payment.StateNone { // search
		t.Errorf("lookup: %+v, %v", c, err)
	}
	if _, err := p.Void(soon(t), r); err != nil {
		t.Errorf("void: %v", err)
	}
	r.Ref = "pi_123"
	set("succeeded")
	if c, err := p.Lookup(soon(t), r); err != nil || c.State != payment.StateCaptured { // retrieve
		t.Errorf("lookup by reference: %+v, %v", c, err)
	}
	_, err := p.Refund(soon(t), payment.RefundRequest{TenantID: "demo", OrderID: "o1", ChargeKey: "k1", ChargeRef: "pi_123", Key: "k1-r", Amount: 100, Currency: "USD"})
	if err != nil {
		t.Errorf("refund: %v", err)
	}
	want := map[string]int{
		"POST /v1/payment_intents":              200,
		"GET /v1/payment_intents/{id}":          200,
		"POST /v1/payment_intents/{id}":         200,
		"POST /v1/payment_intents/{id}/confirm": 200,
		"POST /v1/payment_intents/{id}/cancel":  200,
		"GET /v1/payment_intents/search":        200,
		"GET /v1/refunds":                       200,
		"POST /v1/refunds":                      200,
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff(want, answers); diff != "" {
		t.Errorf("answers of Stripe's mock server:\n%s", diff)
	}
}

// TestTheMockServerRefusesWhatStripeDoesNotDescribe shows that the test above can
// fail.
func TestTheMockServerRefusesWhatStripeDoesNotDescribe(t *testing.T) {
	mock := startMock(t)
	for _, form := range []url.Values{
		{"amount": {"999"}, "currency": {"eur"}, "no_such_parameter": {"1"}},
		{"amount": {"many"}, "currency": {"eur"}},
	} {
		req, err := http.NewRequestWithContext(soon(t), http.MethodPost, mock.JoinPath("/v1/payment_intents").String(), strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer sk_test_123")
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusBadRequest {
			t.Errorf("%v was answered with %s", form, answer.Status)
		}
	}
}

// rewrite puts the charge's state and identity into a payment intent of the mock
// server, whose examples have their own.
func rewrite(r *http.Response, status string) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	var object map[string]any
	if r.StatusCode == http.StatusOK && json.Unmarshal(body, &object) == nil && object["object"] == "payment_intent" {
		object["status"], object["amount"], object["currency"] = status, 999, "eur"
		object["metadata"] = map[string]string{"tenant_id": "demo", "order_id": "o1", "key": "k1"}
		if body, err = json.Marshal(object); err != nil {
			return err
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}
