package fulfilment_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/fulfilment"
)

func TestAnEndpointThatCannotBeIsRefusedByField(t *testing.T) {
	strict := newWorld(t, func(o *fulfilment.Options) {
		o.Policy = fulfilment.Policy{AllowedHosts: []string{"127.0.0.1:9999", "merchant.internal"}}
	})
	const good = "https://shop.example/hook"
	short := "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 23))
	for _, c := range []struct {
		name, id, field, says string
		r                     fulfilment.EndpointRequest
	}{
		{"a good one", "shop", "", "", fulfilment.EndpointRequest{URL: good}},
		{"a query and a port are taken", "a.b_c-D9", "", "", fulfilment.EndpointRequest{URL: "https://shop.example:8443/hook?token=x"}},
		{"an international name is taken", "shop", "", "", fulfilment.EndpointRequest{URL: "https://bücher.example/hook"}},
		{"a public address is taken", "shop", "", "", fulfilment.EndpointRequest{URL: "https://[2606:4700:4700::1111]/"}},
		{"an allowed host may be plain and private", "shop", "", "", fulfilment.EndpointRequest{URL: "http://127.0.0.1:9999/"}},
		{"an allowed host may have any port", "shop", "", "", fulfilment.EndpointRequest{URL: "http://merchant.internal:81/"}},
		{"a name with digits and dots is taken", "shop", "", "", fulfilment.EndpointRequest{URL: "https://1.2.3.4.0xshop.example/"}},
		{"an address as one number", "shop", "url", "in full", fulfilment.EndpointRequest{URL: "https://2130706433/"}},
		{"an address as one number, in hexadecimal", "shop", "url", "in full", fulfilment.EndpointRequest{URL: "https://0x7F000001/"}},
		{"a number is refused first", "shop", "url", "in full", fulfilment.EndpointRequest{URL: "http://2130706433./"}},
		{"an address in octal", "shop", "url", "in full", fulfilment.EndpointRequest{URL: "https://0177.0.0.1/"}},
		{"an address that is cut short", "shop", "url", "in full", fulfilment.EndpointRequest{URL: "https://127.1/"}},
		{"an address with a hexadecimal part", "shop", "url", "in full", fulfilment.EndpointRequest{URL: "https://127.0.0.0x1/"}},
		{"an address with an empty number", "shop", "url", "in full", fulfilment.EndpointRequest{URL: "https://127.0x/"}},
		{"no id", "", "id", "1 to 64", fulfilment.EndpointRequest{URL: good}},
		{"a long id", strings.Repeat("x", 65), "id", "1 to 64", fulfilment.EndpointRequest{URL: good}},
		{"an id with a slash", "a/b", "id", "1 to 64", fulfilment.EndpointRequest{URL: good}},
		{"an id of dots", "..", "id", "dots", fulfilment.EndpointRequest{URL: good}},
		{"no URL", "shop", "url", "absolute", fulfilment.EndpointRequest{}},
		{"a relative URL", "shop", "url", "absolute", fulfilment.EndpointRequest{URL: "/hook"}},
		{"no host", "shop", "url", "absolute", fulfilment.EndpointRequest{URL: "https:///hook"}},
		{"only a port", "shop", "url", "absolute", fulfilment.EndpointRequest{URL: "https://:443/hook"}},
		{"an opaque URL", "shop", "url", "absolute", fulfilment.EndpointRequest{URL: "https:shop.example"}},
		{"another scheme", "shop", "url", "absolute", fulfilment.EndpointRequest{URL: "ftp://shop.example/"}},
		{"plain", "shop", "url", "https", fulfilment.EndpointRequest{URL: "http://shop.example/"}},
		{"a password", "shop", "url", "password", fulfilment.EndpointRequest{URL: "https://a:b@shop.example/"}},
		{"a fragment", "shop", "url", "fragment", fulfilment.EndpointRequest{URL: good + "#top"}},
		{"an empty fragment", "shop", "url", "fragment", fulfilment.EndpointRequest{URL: good + "#"}},
		{"a port beyond the ports", "shop", "url", "65535", fulfilment.EndpointRequest{URL: "https://shop.example:65536/"}},
		{"port 0", "shop", "url", "65535", fulfilment.EndpointRequest{URL: "https://shop.example:0/"}},
		{"a space", "shop", "url", "not a URL", fulfilment.EndpointRequest{URL: "https://shop.example/a b"}},
		{"NUL", "shop", "url", "not a URL", fulfilment.EndpointRequest{URL: "https://shop.example/\x00"}},
		{"a long URL", "shop", "url", "2000", fulfilment.EndpointRequest{URL: good + strings.Repeat("x", 2000)}},
		{"loopback", "shop", "url", "public internet", fulfilment.EndpointRequest{URL: "https://127.0.0.1/"}},
		{"loopback by name", "shop", "url", "public internet", fulfilment.EndpointRequest{URL: "https://LocalHost./"}},
		{"a private address, mapped", "shop", "url", "public internet", fulfilment.EndpointRequest{URL: "https://[::ffff:10.0.0.1]/"}},
		{"another port of the allowed host", "shop", "url", "https", fulfilment.EndpointRequest{URL: "http://127.0.0.1:22/"}},
		{"an event there is not", "shop", "events[1]", "order.refunded", fulfilment.EndpointRequest{URL: good, Events: []string{"order.paid", "order.eaten"}}},
		{"a secret without prefix", "shop", "secret", "whsec_", fulfilment.EndpointRequest{URL: good, Secret: "AAAA"}},
		{"a short secret", "shop", "secret", "24", fulfilment.EndpointRequest{URL: good, Secret: short}},
		{"a secret and a rotation", "shop", "rotateSecret", "leave one", fulfilment.EndpointRequest{URL: good, Secret: fulfilment.NewSecret(), RotateSecret: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := strict.PutEndpoint(t.Context(), "demo", c.id, c.r, 0, ann)
			var invalid *fulfilment.InvalidError
			switch {
			case c.field == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.field != "" && (!errors.As(err, &invalid) || invalid.Field != c.field || !strings.Contains(invalid.Detail, c.says)):
				t.Errorf("error %v, want %s that says %q", err, c.field, c.says)
			}
		})
	}
}

func TestOnlyAddressesInAllowedNetworksMayBePlain(t *testing.T) {
	w := newWorld(t, func(o *fulfilment.Options) {
		o.Policy = fulfilment.Policy{AllowedNets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd12::/16")}}
	})
	for url, refusal := range map[string]string{
		"http://10.1.2.3:8080/":     "",
		"http://[fd12::1]/":         "",
		"http://[::ffff:10.1.2.3]/": "",
		"https://10.1.2.3/":         "",
		"https://inside.example/":   "",
		"http://inside.example/":    "https", // it can lead elsewhere tomorrow
		"http://localhost/":         "https",
		"http://10.2.0.1/":          "https",
		"http://8.8.8.8/":           "https",
		"http://167838211/":         "in full", // 10.1.2.3 as one number
		"https://10.2.0.1/":         "public internet",
	} {
		_, err := w.PutEndpoint(t.Context(), "demo", "shop", fulfilment.EndpointRequest{URL: url}, 0, ann)
		if refusal == "" && err != nil || refusal != "" && (err == nil || !strings.Contains(err.Error(), refusal)) {
			t.Errorf("%s: error %v, want %q", url, err, refusal)
		}
	}
}

func TestAnEndpointIsPutAsAsked(t *testing.T) {
	w := newWorld(t, nil)
	off, on := false, true
	put := func(r fulfilment.EndpointRequest, ifVersion int64) (fulfilment.PutResult, error) {
		r.URL = "https://shop.example/"
		return w.PutEndpoint(t.Context(), "demo", "shop", r, ifVersion, ann)
	}
	first, err := put(fulfilment.EndpointRequest{}, -1)
	if err != nil || !first.Created || !strings.HasPrefix(first.NewSecret, "whsec_") || first.Endpoint.Version != 1 {
		t.Fatalf("%+v, %v", first, err)
	}
	if diff := cmp.Diff([]string{"order.cancelled", "order.paid"}, first.Endpoint.Events); diff != "" {
		t.Errorf("the default events differ (-want +got):\n%s", diff)
	}
	for _, c := range []struct {
		name        string
		r           fulfilment.EndpointRequest
		ifVersion   int64
		wantErr     error
		wantVersion int64
		secrets     int
		disabled    bool
		madeSecret  bool
	}{
		{"the same again changes nothing", fulfilment.EndpointRequest{}, 0, nil, 1, 1, false, false},
		{"it must not exist", fulfilment.EndpointRequest{}, -1, fulfilment.ErrVersion, 0, 0, false, false},
		{"another version", fulfilment.EndpointRequest{}, 2, fulfilment.ErrVersion, 0, 0, false, false},
		{"other events", fulfilment.EndpointRequest{Events: []string{"order.paid", "order.paid"}}, 1, nil, 2, 1, false, false},
		{"switched off", fulfilment.EndpointRequest{Enabled: &off}, 0, nil, 3, 1, true, false},
		{"switched off again changes nothing", fulfilment.EndpointRequest{Enabled: &off}, 0, nil, 3, 1, true, false},
		{"it stays off when nothing is said", fulfilment.EndpointRequest{Events: []string{"order.paid"}}, 0, nil, 4, 1, true, false},
		{"switched on", fulfilment.EndpointRequest{Enabled: &on}, 0, nil, 5, 1, false, false},
		{"a new secret", fulfilment.EndpointRequest{RotateSecret: true}, 5, nil, 6, 2, false, true},
		{"the caller's own secret", fulfilment.EndpointRequest{Secret: "whsec_" + strings.Repeat("A", 32)}, 0, nil, 7, 3, false, false},
		{"the same secret again changes nothing", fulfilment.EndpointRequest{Secret: "whsec_" + strings.Repeat("A", 32)}, 0, nil, 7, 3, false, false},
	} {
		got, err := put(c.r, c.ifVersion)
		if !errors.Is(err, c.wantErr) {
			t.Fatalf("%s: error %v, want %v", c.name, err, c.wantErr)
		}
		e := got.Endpoint
		if err == nil && (e.Version != c.wantVersion || len(e.Secrets) != c.secrets || e.Disabled() != c.disabled || (got.NewSecret != "") != c.madeSecret || got.Created) {
			t.Errorf("%s: %+v", c.name, got)
		}
		for _, s := range e.Secrets {
			if s.Key != "" {
				t.Errorf("%s: the answer has a key", c.name)
			}
		}
	}
	list, err := w.Endpoints(t.Context(), "demo")
	if err != nil || len(list) != 1 || list[0].Secrets[0].Key != "" {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestANoticeGoesOnceToEachEndpointThatWantsIt(t *testing.T) {
	w := newWorld(t, nil)
	w.put(t, "a", "https://a.example/")
	w.put(t, "b", "https://b.example/")
	w.put(t, "c", "https://c.example/", fulfilment.EventOrderRefunded)
	for range 3 {
		w.notify(t, 1, 2)
	}
	// Told again later and from elsewhere it is still the same.
	w.clock.Advance(time.Hour)
	n := w.notice(1)
	n.Trace = "nonsense\r\n"
	if got, err := w.Notify(t.Context(), n); err != nil || got != 2 {
		t.Errorf("%d deliveries, error %v, want 2", got, err)
	}
	list, _, err := w.Deliveries(t.Context(), "demo", "", 10, "")
	if err != nil || len(list) != 2 || list[0].EndpointID == list[1].EndpointID || !list[0].CreatedAt.Equal(start) {
		t.Errorf("error %v, deliveries %+v", err, list)
	}
	n.TenantID = "other"
	if got, err := w.Notify(t.Context(), n); err != nil || got != 0 {
		t.Errorf("another tenant's notice: %d deliveries, error %v", got, err)
	}
}

func TestDeliveriesAreListedByTheAgeOfTheirOrders(t *testing.T) {
	w := newWorld(t, nil)
	w.put(t, "a", "https://a.example/")
	w.put(t, "b", "https://b.example/")
	var want []string
	for i := range 5 {
		n := w.notice(i)
		n.OrderID = fmt.Sprintf("019ab0c0-000%d-7000-8000-000000000000", 9-i) // an older one each time
		want = append(want, n.OrderID, n.OrderID)
		if _, err := w.Notify(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	list, _, err := w.Deliveries(t.Context(), "demo", "", 100, "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range list {
		got = append(got, d.OrderID)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("orders differ (-want +got):\n%s", diff)
	}
}

func TestConcurrentNoticesShareWrites(t *testing.T) {
	const n = 500
	w := newWorld(t, nil)
	w.put(t, "a", "https://a.example/")
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if got, err := w.Notify(t.Context(), w.notice(i)); err != nil || got != 1 {
				t.Errorf("notice %d: %d deliveries, error %v", i, got, err)
			}
		})
	}
	wg.Wait()
	list, _, err := w.Deliveries(t.Context(), "demo", "", n+1, "")
	if err != nil || len(list) != n {
		t.Errorf("%d deliveries, error %v", len(list), err)
	}
	if writes := w.store.enqueues.Load(); writes > n/2 {
		t.Errorf("%d notices took %d writes", n, writes)
	}
}

func TestANoticeThatCanNeverBeSentIsRefused(t *testing.T) {
	w := newWorld(t, nil)
	for field, spoil := range map[string]func(*fulfilment.Notice){
		"tenantId": func(n *fulfilment.Notice) { n.TenantID = "" },
		"id":       func(n *fulfilment.Notice) { n.ID = "a\x00b" },
		"type":     func(n *fulfilment.Notice) { n.EventType = "" },
		"orderId":  func(n *fulfilment.Notice) { n.OrderID = strings.Repeat("x", 256) },
		"at":       func(n *fulfilment.Notice) { n.At = time.Time{} },
		"data":     func(n *fulfilment.Notice) { n.Data = []byte(`[1]`) },
	} {
		n := w.notice(1)
		spoil(&n)
		_, err := w.Notify(t.Context(), n)
		var invalid *fulfilment.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != field {
			t.Errorf("error %v, want one of %s", err, field)
		}
	}
	for name, data := range map[string]string{"nothing": ``, "broken JSON": `{"a":`, "not UTF-8": "{\"a\":\"\xff\"}", "too long": `{"a":"` + strings.Repeat("x", fulfilment.MaxDataBytes) + `"}`} {
		n := w.notice(1)
		n.Data = []byte(data)
		var invalid *fulfilment.InvalidError
		if _, err := w.Notify(t.Context(), n); !errors.As(err, &invalid) || invalid.Field != "data" {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
