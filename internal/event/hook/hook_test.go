package hook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"millrace/internal/event/hook"
)

// headers is a fake of a request's header.
type headers map[string]string

func (h headers) get(name string) string {
	for k, v := range h {
		if http.CanonicalHeaderKey(k) == http.CanonicalHeaderKey(name) {
			return v
		}
	}
	return ""
}

func (h headers) with(name, value string) headers {
	out := headers{}
	for k, v := range h {
		out[k] = v
	}
	if value == "" {
		delete(out, name)
	} else {
		out[name] = value
	}
	return out
}

func sign(key string, parts ...string) []byte {
	h := hmac.New(sha256.New, []byte(key))
	for _, p := range parts {
		h.Write([]byte(p))
	}
	return h.Sum(nil)
}

func newVerifier(t testing.TB, s hook.Source) *hook.Verifier {
	t.Helper()
	if s.Name == "" {
		s.Name = "shop"
	}
	s.TenantID = "acme"
	v, err := hook.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// codeOf returns the code of a refusal, zero if there is no error.
func codeOf(t testing.TB, err error) hook.Code {
	t.Helper()
	if err == nil {
		return 0
	}
	var e *hook.Error
	if !errors.As(err, &e) {
		t.Fatalf("error is a %T, not a *hook.Error: %v", err, err)
	}
	if e.Reason == "" || e.Source == "" {
		t.Fatalf("error says neither why nor from where: %+v", e)
	}
	return e.Code
}

type check struct {
	name   string
	header headers
	body   string
	now    time.Time
	code   hook.Code
	want   hook.Delivery
}

func runChecks(t *testing.T, v *hook.Verifier, checks []check) {
	t.Helper()
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			got, err := v.Verify(c.header.get, []byte(c.body), c.now)
			if code := codeOf(t, err); code != c.code {
				t.Fatalf("code %v (%v), want %v", code, err, c.code)
			}
			if hook.Verified(err) != (c.code == hook.BadBody) {
				t.Fatalf("Verified is %v for %v", hook.Verified(err), err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

// The values that GitHub's documentation gives for testing an implementation.
func TestGitHubsPublishedExampleHasTheRightSignature(t *testing.T) {
	v := newVerifier(t, hook.Source{Scheme: hook.GitHub, Secrets: []string{"It's a Secret to Everybody"}})
	h := headers{
		"X-GitHub-Event": "ping", "X-GitHub-Delivery": "1",
		"X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
	}
	_, err := v.Verify(h.get, []byte("Hello, World!"), time.Now())
	if !hook.Verified(err) || !strings.Contains(err.Error(), "not JSON") {
		t.Fatalf("got %v, want the signature to hold and the body not to be JSON", err)
	}
	_, err = v.Verify(h.get, []byte("Hello, World?"), time.Now())
	if codeOf(t, err) != hook.Mismatch {
		t.Fatalf("got %v for another body, want a mismatch", err)
	}
}

func TestGitHubDeliveries(t *testing.T) {
	const body = `{"action":"opened","number":1}`
	v := newVerifier(t, hook.Source{Scheme: hook.GitHub, Secrets: []string{"new secret", "old secret"}})
	signed := func(secret, body string) headers {
		return headers{
			"X-GitHub-Event": "pull_request", "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
			"X-Hub-Signature-256": "sha256=" + hex.EncodeToString(sign(secret, body)),
		}
	}
	good := signed("new secret", body)
	want := hook.Delivery{ID: "72d3162e-cc78-11e3-81ab-4c9367dc0958", Type: "github.pull_request"}
	runChecks(t, v, []check{
		{name: "signed with the first secret", header: good, body: body, want: want},
		{name: "signed with the second secret", header: signed("old secret", body), body: body, want: want},
		{name: "signed with upper-case digits", header: good.with("X-Hub-Signature-256",
			"sha256="+strings.ToUpper(hex.EncodeToString(sign("new secret", body)))), body: body, want: want},
		{name: "signed with an unknown secret", header: signed("no secret", body), body: body, code: hook.Mismatch},
		{name: "another body", header: good, body: body + " ", code: hook.Mismatch},
		{name: "no signature", header: good.with("X-Hub-Signature-256", ""), body: body, code: hook.MissingHeader},
		{name: "no delivery id", header: good.with("X-GitHub-Delivery", ""), body: body, code: hook.MissingHeader},
		{name: "no event", header: good.with("X-GitHub-Event", ""), body: body, code: hook.MissingHeader},
		{name: "the SHA-1 signature only", header: good.with("X-Hub-Signature-256", "sha1=7d38cdd689735b008b3c702edd92eea23791c5f6"), body: body, code: hook.MalformedHeader},
		{name: "a signature cut short", header: good.with("X-Hub-Signature-256", good["X-Hub-Signature-256"][:70]), body: body, code: hook.MalformedHeader},
		{name: "a signature that is no hexadecimal", header: good.with("X-Hub-Signature-256", "sha256="+strings.Repeat("g", 64)), body: body, code: hook.MalformedHeader},
		{name: "an id with a line feed", header: good.with("X-GitHub-Delivery", "a\nb"), body: body, code: hook.MalformedHeader},
		{name: "an id that is not UTF-8", header: good.with("X-GitHub-Delivery", "a\xff"), body: body, code: hook.MalformedHeader},
		{name: "an id that is too long", header: good.with("X-GitHub-Delivery", strings.Repeat("a", 129)), body: body, code: hook.MalformedHeader},
		{name: "a body that is not JSON", header: signed("new secret", "payload=%7B%7D"), body: "payload=%7B%7D", code: hook.BadBody, want: want},
	})
}

func TestStripeDeliveries(t *testing.T) {
	const body = `{"id":"evt_1NG8Du2eZvKYlo2CUI79vXWy","object":"event","created":1686089970,"type":"setup_intent.created"}`
	now := time.Unix(1_700_000_000, 0)
	v := newVerifier(t, hook.Source{Scheme: hook.Stripe, Secrets: []string{"whsec_new", "whsec_old"}})
	at := func(at time.Time, secret, body string) headers {
		ts := fmt.Sprint(at.Unix())
		return headers{"Stripe-Signature": "t=" + ts + ",v1=" + hex.EncodeToString(sign(secret, ts, ".", body)) +
			",v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39"}
	}
	good := at(now, "whsec_new", body)
	value := good["Stripe-Signature"]
	set := func(value string) headers { return headers{"Stripe-Signature": value} }
	want := hook.Delivery{ID: "evt_1NG8Du2eZvKYlo2CUI79vXWy", Type: "stripe.setup_intent.created", Timestamp: time.Unix(1686089970, 0).UTC()}
	other := strings.Repeat("00", 32)
	const untyped, untimed, farOff = `{"id":"evt_1"}`, `{"id":"evt_1","type":"x"}`, `{"id":"evt_1","type":"x","created":9223372036}`
	runChecks(t, v, []check{
		{name: "signed with the first secret", header: good, body: body, now: now, want: want},
		{name: "signed with the second secret", header: at(now, "whsec_old", body), body: body, now: now, want: want},
		{name: "the right signature comes second", header: set(strings.Replace(value, ",v1=", ",v1="+other+",v1=", 1)), body: body, now: now, want: want},
		{name: "spaces after the commas", header: set(strings.ReplaceAll(value, ",", ", ")), body: body, now: now, want: want},
		{name: "signed with an unknown secret", header: at(now, "whsec_x", body), body: body, now: now, code: hook.Mismatch},
		{name: "the time was changed", header: set(strings.Replace(value, "t=1700000000", "t=1700000001", 1)), body: body, now: now, code: hook.Mismatch},
		{name: "as old as the window allows", header: at(now.Add(-5*time.Minute), "whsec_new", body), body: body, now: now, want: want},
		{name: "a second older", header: at(now.Add(-5*time.Minute-time.Second), "whsec_new", body), body: body, now: now, code: hook.TooOld},
		{name: "as new as the window allows", header: at(now.Add(5*time.Minute), "whsec_new", body), body: body, now: now, want: want},
		{name: "a second newer", header: at(now.Add(5*time.Minute+time.Second), "whsec_new", body), body: body, now: now, code: hook.TooNew},
		{name: "no header", header: headers{}, body: body, now: now, code: hook.MissingHeader},
		{name: "no time", header: set(value[len("t=1700000000,"):]), body: body, now: now, code: hook.MalformedHeader},
		{name: "two times", header: set("t=1," + value), body: body, now: now, code: hook.MalformedHeader},
		{name: "a negative time", header: set(strings.Replace(value, "t=", "t=-", 1)), body: body, now: now, code: hook.MalformedHeader},
		{name: "a time beyond what can be kept", header: set("t=9999999999999,v1=" + other), body: body, now: now, code: hook.MalformedHeader},
		{name: "no signature of a known scheme", header: set("t=1700000000,v0=" + other), body: body, now: now, code: hook.MalformedHeader},
		{name: "a signature cut short", header: set("t=1700000000,v1=" + other[1:]), body: body, now: now, code: hook.MalformedHeader},
		{name: "too many signatures", header: set("t=1700000000" + strings.Repeat(",v1="+other, 17)), body: body, now: now, code: hook.MalformedHeader},
		{name: "a header that is too long", header: set(value + strings.Repeat(",x=y", 2000)), body: body, now: now, code: hook.MalformedHeader},
		{name: "a time of the event that cannot be kept", header: at(now, "whsec_new", farOff), body: farOff, now: now,
			want: hook.Delivery{ID: "evt_1", Type: "stripe.x", Timestamp: now.UTC()}},
		{name: "no time of the event", header: at(now, "whsec_new", untimed), body: untimed, now: now,
			want: hook.Delivery{ID: "evt_1", Type: "stripe.x", Timestamp: now.UTC()}},
		{name: "a body that is not JSON", header: at(now, "whsec_new", "{"), body: "{", now: now, code: hook.BadBody},
		{name: "a body without a type", header: at(now, "whsec_new", untyped), body: untyped, now: now, code: hook.BadBody,
			want: hook.Delivery{ID: "evt_1", Timestamp: now.UTC()}},
	})
}

// The example of the Standard Webhooks reference implementations.
func TestStandardWebhooksPublishedExampleIsAccepted(t *testing.T) {
	v := newVerifier(t, hook.Source{Scheme: hook.Standard, Secrets: []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}})
	h := headers{
		"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
		"webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
	}
	got, err := v.Verify(h.get, []byte(`{"test": 2432232314}`), time.Unix(1614265330, 0))
	if err != nil {
		t.Fatal(err)
	}
	want := hook.Delivery{ID: "msg_p5jXN8AQM9LWM0D4loKWxJek", Type: "shop.webhook", Timestamp: time.Unix(1614265330, 0).UTC()}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestStandardWebhooksDeliveries(t *testing.T) {
	const body, newSecret, oldSecret = `{"type":"contact.created","data":{}}`, "whsec_bmV3IHNlY3JldCwgbmV3", "b2xkIHNlY3JldCwgb2xk"
	now := time.Unix(1_700_000_000, 0)
	v := newVerifier(t, hook.Source{Name: "crm", Scheme: hook.Standard, Secrets: []string{newSecret, oldSecret}, Tolerance: time.Minute})
	signed := func(secret string, at time.Time, body string) headers {
		peer, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := peer.Sign("msg_1", at, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return headers{"Webhook-Id": "msg_1", "Webhook-Timestamp": fmt.Sprint(at.Unix()), "Webhook-Signature": signature}
	}
	good := signed(newSecret, now, body)
	signature := good["Webhook-Signature"]
	set := func(value string) headers { return good.with("Webhook-Signature", value) }
	want := hook.Delivery{ID: "msg_1", Type: "crm.contact.created", Timestamp: now.UTC()}
	other := "v1," + base64.StdEncoding.EncodeToString(make([]byte, 32))
	typed := func(typ string) hook.Delivery { d := want; d.Type = typ; return d }
	timed := func(at time.Time) hook.Delivery { d := want; d.Timestamp = at.UTC(); return d }
	checks := []check{
		{name: "signed with the first secret", header: good, body: body, now: now, want: want},
		{name: "signed with the second secret, which has no prefix", header: signed(oldSecret, now, body), body: body, now: now, want: want},
		{name: "the right signature comes second", header: set(other + " " + signature), body: body, now: now, want: want},
		{name: "other versions stand beside", header: set("v1a,abc v2,def " + signature), body: body, now: now, want: want},
		{name: "signed with an unknown secret", header: set(other), body: body, now: now, code: hook.Mismatch},
		{name: "another id", header: good.with("Webhook-Id", "msg_2"), body: body, now: now, code: hook.Mismatch},
		{name: "another time", header: good.with("Webhook-Timestamp", "1700000001"), body: body, now: now, code: hook.Mismatch},
		{name: "another body", header: good, body: "{}", now: now, code: hook.Mismatch},
		{name: "as old as the window allows", header: signed(newSecret, now.Add(-time.Minute), body), body: body, now: now, want: timed(now.Add(-time.Minute))},
		{name: "a second older", header: signed(newSecret, now.Add(-time.Minute-time.Second), body), body: body, now: now, code: hook.TooOld},
		{name: "as new as the window allows", header: signed(newSecret, now.Add(time.Minute), body), body: body, now: now, want: timed(now.Add(time.Minute))},
		{name: "a second newer", header: signed(newSecret, now.Add(time.Minute+time.Second), body), body: body, now: now, code: hook.TooNew},
		{name: "a time that is no number", header: good.with("Webhook-Timestamp", "now"), body: body, now: now, code: hook.MalformedHeader},
		{name: "a signature without version", header: set(signature[3:]), body: body, now: now, code: hook.MalformedHeader},
		{name: "an empty signature", header: set("v1,"), body: body, now: now, code: hook.MalformedHeader},
		{name: "no signature of a known version", header: set("v1a,abc"), body: body, now: now, code: hook.MalformedHeader},
		{name: "too many signatures", header: set(strings.Repeat(other+" ", 17)), body: body, now: now, code: hook.MalformedHeader},
		{name: "no type in the body", header: signed(newSecret, now, `[]`), body: `[]`, now: now, want: typed("crm.webhook")},
		{name: "a type that is no string", header: signed(newSecret, now, `{"type":7}`), body: `{"type":7}`, now: now, want: typed("crm.webhook")},
		{name: "a type with NUL", header: signed(newSecret, now, `{"type":"a\u0000"}`), body: `{"type":"a\u0000"}`, now: now, want: typed("crm.webhook")},
		{name: "a type with escapes", header: signed(newSecret, now, `{"Type":1,"t\u0079pe":"\u0061"}`), body: `{"Type":1,"t\u0079pe":"\u0061"}`, now: now, want: typed("crm.a")},
		{name: "a body that is not JSON", header: signed(newSecret, now, "hi"), body: "hi", now: now, code: hook.BadBody, want: typed("crm.webhook")},
	}
	for _, name := range []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"} {
		checks = append(checks, check{name: "no " + name, header: good.with(name, ""), body: body, now: now, code: hook.MissingHeader})
	}
	runChecks(t, v, checks)
}

func TestTheTypePrefixCanBeSet(t *testing.T) {
	for _, prefix := range []string{"dev", "dev."} {
		v := newVerifier(t, hook.Source{Scheme: hook.GitHub, Secrets: []string{"s"}, TypePrefix: prefix})
		h := headers{"X-Github-Event": "push", "X-Github-Delivery": "1", "X-Hub-Signature-256": "sha256=" + hex.EncodeToString(sign("s", "{}"))}
		got, err := v.Verify(h.get, []byte("{}"), time.Now())
		if err != nil || got.Type != "dev.push" {
			t.Fatalf("with prefix %q: type %q, error %v", prefix, got.Type, err)
		}
	}
}

func TestASourceThatCannotWorkIsRefusedAndNamed(t *testing.T) {
	good := hook.Source{Name: "shop", TenantID: "acme", Scheme: hook.Standard, Secrets: []string{"whsec_c2VjcmV0"}}
	if _, err := hook.New(good); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*hook.Source)
		says   string
	}{
		{"no name", func(s *hook.Source) { s.Name = "" }, "name"},
		{"a name with a slash", func(s *hook.Source) { s.Name = "a/b" }, "name"},
		{"no tenant", func(s *hook.Source) { s.TenantID = "" }, "tenant"},
		{"no scheme", func(s *hook.Source) { s.Scheme = "" }, "scheme"},
		{"an unknown scheme", func(s *hook.Source) { s.Scheme = "gitlab" }, "scheme"},
		{"a negative tolerance", func(s *hook.Source) { s.Tolerance = -1 }, "tolerance"},
		{"no secret", func(s *hook.Source) { s.Secrets = nil }, "no secret"},
		{"an empty secret among others", func(s *hook.Source) { s.Secrets = append(s.Secrets, "") }, "secret 2: it is empty"},
		{"a secret with a line end", func(s *hook.Source) { s.Secrets = []string{"whsec_c2VjcmV0\n"} }, "white space"},
		{"a secret that is no base64", func(s *hook.Source) { s.Secrets = []string{"whsec_hunter2!"} }, "base64"},
		{"a secret that ends after its prefix", func(s *hook.Source) { s.Secrets = []string{"whsec_"} }, "nothing follows"},
		{"an asymmetric key", func(s *hook.Source) { s.Secrets = []string{"whpk_c2VjcmV0"} }, "symmetric"},
		{"a type prefix with a space", func(s *hook.Source) { s.TypePrefix = "a b" }, "type prefix"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := good
			s.Secrets = append([]string(nil), good.Secrets...)
			c.change(&s)
			_, err := hook.New(s)
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), fmt.Sprintf("%q", s.Name)) {
				t.Fatalf("error %v does not say %q and name %q", err, c.says, s.Name)
			}
			for _, secret := range s.Secrets {
				if len(secret) > len("whsec_") && strings.Contains(err.Error(), strings.TrimSpace(secret)[6:]) {
					t.Fatalf("error shows the secret: %v", err)
				}
			}
		})
	}
}
