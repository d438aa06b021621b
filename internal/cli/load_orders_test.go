package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// orderServer places every order and notes what was asked.
type orderServer struct {
	mu     sync.Mutex
	placed []string // paths and bodies
	seeds  int
}

func (s *orderServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/orders":
		s.placed = append(s.placed, string(body))
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"id":"0198c5d4-5b1e-7c3a-9f00-%012d","status":"placed","statusUrl":"","total":{"amount":100,"currency":"EUR"}}`, len(s.placed))
	case r.Method == http.MethodGet && r.URL.Path == "/orders":
		_, _ = io.WriteString(w, `{"orders":[],"nextCursor":""}`)
	case r.Method == http.MethodGet && r.URL.Path == "/stock":
		_, _ = io.WriteString(w, `{"stock":[],"nextCursor":""}`)
	case r.Method == http.MethodGet:
		w.WriteHeader(http.StatusNotFound)
	default:
		s.seeds++
		_, _ = io.WriteString(w, `{"onHand":7}`)
	}
}

func TestLoadOrdersPlacesWhatTheFlagsSay(t *testing.T) {
	orders := &orderServer{}
	server := httptest.NewServer(orders)
	defer server.Close()
	dir := t.TempDir()
	report, acked := filepath.Join(dir, "report.json"), filepath.Join(dir, "acked.tsv")
	i := invocation{env: []string{"MILLRACE_TOKEN=from-environment"}}
	r := i.run(t, "load", "orders", "--url", server.URL, "--rate", "max", "--count", "15", "--connections", "2", "--skus", "3", "--sku-prefix", "shoe-",
		"--stock", "7", "--lines", "2-3", "--quantity", "4", "--payment-token", "tok_a=1,tok_b=1", "--zipf", "1", "--json", report, "--acked", acked)
	if r.Code != ExitOK || !strings.Contains(r.Out, "placed") {
		t.Fatalf("result: %+v", r)
	}
	if len(orders.placed) != 15 || orders.seeds != 6 {
		t.Errorf("the server got %d orders and %d requests to put products in", len(orders.placed), orders.seeds)
	}
	tokens := map[string]int{}
	for _, body := range orders.placed {
		var o struct {
			Items []struct {
				SKU      string
				Quantity int
			}
			PaymentToken string
		}
		if err := json.Unmarshal([]byte(body), &o); err != nil || len(o.Items) < 2 || len(o.Items) > 3 || o.Items[0].Quantity != 4 || !strings.HasPrefix(o.Items[0].SKU, "shoe-0000") {
			t.Errorf("order %s: %v", body, err)
		}
		tokens[o.PaymentToken]++
	}
	if tokens["tok_a"] == 0 || tokens["tok_b"] == 0 || len(tokens) != 2 {
		t.Errorf("payment tokens: %v", tokens)
	}
	var written struct {
		Mode   string
		SKUs   int
		Orders struct{ Placed int }
	}
	text, err := os.ReadFile(report)
	if err != nil || json.Unmarshal(text, &written) != nil {
		t.Fatalf("report: %v: %s", err, text)
	}
	if written.Mode != "closed loop" || written.SKUs != 3 || written.Orders.Placed != 15 {
		t.Errorf("report: %+v", written)
	}

	// This server has forgotten all of it.
	r = i.run(t, "verify", "orders", "--url", server.URL, "--acked", acked, "--settle", "-1s")
	if r.Code != ExitFailure || !strings.Contains(r.Err, "the server did not keep what it acknowledged: 15 missing, 3 stock") {
		t.Errorf("verify: %+v", r)
	}
}

func TestLoadOrdersAndVerifyOrdersRefuseWhatMakesNoSense(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"load", "orders"}, "missing --token TOKEN"},
		{[]string{"verify", "orders"}, "missing --token TOKEN"},
		{[]string{"load", "orders", "--lines", "3-1"}, `invalid argument "3-1" for "--lines" flag`},
		{[]string{"load", "orders", "--payment-token", "a=0"}, "the weight must be a whole number"},
		{[]string{"load", "orders", "--token", "t", "--duplicate", "2"}, "duplicate 2: must be a share from 0 to 1"},
		{[]string{"verify", "orders", "--token", "t", "--replay", "5"}, "give the acked file"},
		{[]string{"verify", "orders", "--token", "t", "--acked", "/no/such/file"}, "/no/such/file"},
	} {
		r := invocation{}.run(t, c.args...)
		if r.Code == ExitOK || !strings.Contains(r.Err, c.want) {
			t.Errorf("%q: %s", c.args, cmp.Diff(c.want, r.Err))
		}
	}
}
