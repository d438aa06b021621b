package fulfilment

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// testDispatcher has a default policy, a clock that stands at noon and a random
// number in the middle. It has no store.
func testDispatcher(t *testing.T) *Dispatcher {
	t.Helper()
	p, err := Policy{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	d := &Dispatcher{o: Options{Policy: p, Now: func() time.Time { return noon }, Rand: func() float64 { return 0.5 },
		Metrics: NewMetrics(prometheus.NewRegistry()), Logger: slog.New(slog.DiscardHandler)}}
	d.openLanes()
	return d
}

func TestTheAnswerDecidesWhatBecomesOfADelivery(t *testing.T) {
	in := func(d time.Duration) time.Time { return noon.Add(d) }
	for _, c := range []struct {
		name     string
		attempt  int
		answer   answer
		err      error
		want     Settlement
		wellDone bool
	}{
		{"200 is delivered", 1, answer{status: 200}, nil, Settlement{Outcome: OutcomeDelivered}, true},
		{"299 is delivered", 1, answer{status: 299}, nil, Settlement{Outcome: OutcomeDelivered}, true},
		{"a redirect is tried again", 1, answer{status: 302}, nil, Settlement{Outcome: OutcomeRetry, RetryAt: in(5 * time.Second)}, true},
		{"404 is tried again", 1, answer{status: 404}, nil, Settlement{Outcome: OutcomeRetry, RetryAt: in(5 * time.Second)}, true},
		{"500 is tried again by the schedule", 3, answer{status: 500}, nil, Settlement{Outcome: OutcomeRetry, RetryAt: in(2 * time.Minute)}, false},
		{"no answer is tried again", 2, answer{}, errors.New("reset"), Settlement{Outcome: OutcomeRetry, RetryAt: in(30 * time.Second)}, false},
		{"the last attempt is tried no more", 11, answer{status: 500}, nil, Settlement{Outcome: OutcomeGaveUp, Letter: true}, false},
		{"the last attempt without an answer is tried no more", 11, answer{}, errors.New("reset"), Settlement{Outcome: OutcomeGaveUp, Letter: true}, false},
		{"410 gives up at once and disables", 1, answer{status: 410}, nil, Settlement{Outcome: OutcomeGaveUp, Letter: true,
			Disable: &Disable{EndpointRef{"demo", "shop"}, 4, noon.Add(-time.Hour), "it answered 410 Gone"}}, true},
		{"429 may ask for more time", 1, answer{429, "120"}, nil, Settlement{Outcome: OutcomeRetry, RetryAt: in(2 * time.Minute)}, false},
		{"503 may ask for more time, with a date", 1, answer{503, in(10 * time.Minute).Format(http.TimeFormat)}, nil, Settlement{Outcome: OutcomeRetry, RetryAt: in(10 * time.Minute)}, false},
		{"more time has a bound", 1, answer{429, "999999999"}, nil, Settlement{Outcome: OutcomeRetry, RetryAt: in(time.Hour)}, false},
		{"nobody shortens the schedule", 3, answer{429, "1"}, nil, Settlement{Outcome: OutcomeRetry, RetryAt: in(2 * time.Minute)}, false},
		{"a Retry-After of the past changes nothing", 1, answer{503, "Mon, 02 Jan 2006 15:04:05 GMT"}, nil, Settlement{Outcome: OutcomeRetry, RetryAt: in(5 * time.Second)}, false},
		{"a Retry-After that is none changes nothing", 1, answer{503, "-3 soon"}, nil, Settlement{Outcome: OutcomeRetry, RetryAt: in(5 * time.Second)}, false},
		{"500 may not ask for more time", 1, answer{500, "120"}, nil, Settlement{Outcome: OutcomeRetry, RetryAt: in(5 * time.Second)}, false},
		{"the last 429 is tried no more", 11, answer{429, "120"}, nil, Settlement{Outcome: OutcomeGaveUp, Letter: true}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := testDispatcher(t)
			s := Settlement{Attempt: c.attempt, At: noon}
			wellDone := d.judge(&s, &Endpoint{TenantID: "demo", ID: "shop", Version: 4, CreatedAt: noon.Add(-time.Hour)}, c.answer, c.err)
			c.want.Attempt, c.want.At, c.want.Status = c.attempt, noon, c.answer.status
			if diff := cmp.Diff(c.want, s, cmpopts.IgnoreFields(Settlement{}, "Error")); diff != "" {
				t.Errorf("the settlement differs (-want +got):\n%s", diff)
			}
			if wellDone != c.wellDone {
				t.Errorf("well done: %v, want %v", wellDone, c.wellDone)
			}
			if (s.Error == "") != (s.Outcome == OutcomeDelivered) {
				t.Errorf("outcome %d with the error %q", s.Outcome, s.Error)
			}
		})
	}
}

func TestEachAttemptCountsOnceByItsResult(t *testing.T) {
	d := testDispatcher(t)
	for _, a := range []struct {
		answer answer
		err    error
	}{{answer{status: 204}, nil}, {answer{status: 410}, nil}, {answer{status: 500}, nil}, {answer{}, context.DeadlineExceeded},
		{answer{}, &forbiddenAddressError{"shop.example"}}, {answer{}, errors.New("reset")}} {
		d.judge(&Settlement{Attempt: 1, At: noon}, &Endpoint{}, a.answer, a.err)
	}
	for _, result := range []string{resultDelivered, resultGone, resultRefused, resultTimeout, resultForbidden, resultUnreachable} {
		if n := testutil.ToFloat64(d.o.Metrics.attempts.WithLabelValues(result)); n != 1 {
			t.Errorf("%s counts %v, want 1", result, n)
		}
	}
}

func TestEveryIntervalOfTheScheduleIsWithinItsJitter(t *testing.T) {
	p, err := Policy{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for i, base := range p.Schedule {
		low, middle, high := p.retryDelay(i+1, 0), p.retryDelay(i+1, 0.5), p.retryDelay(i+1, 1)
		for _, c := range []struct{ got, want time.Duration }{{low, base * 8 / 10}, {middle, base}, {high, base * 12 / 10}} {
			if diff := c.got - c.want; diff < -time.Microsecond || diff > time.Microsecond {
				t.Errorf("interval %d is %v, want %v", i+1, c.got, c.want)
			}
		}
		if high > p.horizon() {
			t.Errorf("interval %d can be %v, beyond the horizon of %v", i+1, high, p.horizon())
		}
	}
	if p.retryDelay(len(p.Schedule)+1, 0.5) != 0 {
		t.Error("there is an interval after the last")
	}
	p.Jitter = -1
	if p, _ = p.withDefaults(); p.retryDelay(1, 0) != p.Schedule[0] || p.retryDelay(1, 0.9) != p.Schedule[0] {
		t.Error("a negative jitter still moves the interval")
	}
}

func TestAPolicyThatCannotWorkIsRefused(t *testing.T) {
	for want, p := range map[string]Policy{
		"Lease":    {Lease: 20 * time.Second},
		"Schedule": {Schedule: []time.Duration{time.Second, 0}},
		"Jitter":   {Jitter: 0.6},
		"InFlight": {InFlight: 4, PerEndpoint: 5},
		"negative": {Poll: -1},
	} {
		if _, err := New(Options{Store: nothing{}, Policy: p}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want one that names %s", p, err, want)
		}
	}
	if _, err := New(Options{}); err == nil {
		t.Error("a Service without a store was made")
	}
}

// nothing is a Store that is never asked.
type nothing struct{ Store }

func TestAFailureIsNamedWithoutItsURL(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	unknown := httptest.NewUnstartedServer(http.NotFoundHandler())
	unknown.Config.ErrorLog = log.New(io.Discard, "", 0)
	unknown.StartTLS()
	defer unknown.Close()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	broken := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer broken.Close()
	p, err := Policy{AllowPrivate: true}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	client := newClient(&Options{Policy: p})
	for _, c := range []struct{ url, want string }{
		{"https" + strings.TrimPrefix(plain.URL, "http"), "HTTP response to HTTPS client"},
		{unknown.URL, "certificate is not valid"},
		{closed.URL, "could not be connected to"},
		{broken.URL, "the connection broke"},
	} {
		_, err := client.Post(c.url+"/?token=t0ken", "application/json", strings.NewReader("{}"))
		if err == nil {
			t.Fatalf("%s: no error", c.want)
		}
		if result, reason := failure(err, time.Second); result != resultUnreachable || !strings.Contains(reason, c.want) || strings.Contains(reason, "t0ken") {
			t.Errorf("%s: %q, want %q", result, reason, c.want)
		}
	}
	if tlsConfig := client.Transport.(*http.Transport).TLSClientConfig; tlsConfig.InsecureSkipVerify || tlsConfig.MinVersion < tls.VersionTLS12 {
		t.Error("certificates are not checked as they must be")
	}
}
