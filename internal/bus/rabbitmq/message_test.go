package rabbitmq

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"

	"millrace/internal/bus"
)

func TestADelayIsKeptInTheShortestStepThatHoldsIt(t *testing.T) {
	for _, c := range []struct{ delay, step, cut time.Duration }{
		{time.Millisecond, firstStep, time.Millisecond},
		{firstStep, firstStep, firstStep},
		{firstStep + 1, time.Second, firstStep + 1},
		{time.Minute, 64 * time.Second, time.Minute},
		{time.Hour, 4096 * time.Second, time.Hour},
		{72 * time.Hour, 262144 * time.Second, 72 * time.Hour},
		{365 * 24 * time.Hour, 262144 * time.Second, 262144 * time.Second},
	} {
		if step, cut := step(c.delay); step != c.step || cut != c.cut {
			t.Errorf("a delay of %v: step %v and %v, want %v and %v", c.delay, step, cut, c.step, c.cut)
		}
	}
}

func TestAPatternTakesTheSameOnTheBroker(t *testing.T) {
	for pattern, want := range map[string]string{"orders.paid": "orders.paid", "orders.*": "orders.*", "orders.>": "orders.*.#"} {
		if got := bindingKey(pattern); got != want {
			t.Errorf("%s is bound as %s, want %s", pattern, got, want)
		}
	}
}

// TestNamesThatMeanSomethingToTheBrokerComeBack goes there and back without one.
func TestNamesThatMeanSomethingToTheBrokerComeBack(t *testing.T) {
	sent := bus.Message{Subject: "orders.placed", ID: "1", Data: []byte("data"), Headers: map[string]string{
		"CC": "orders.paid", "BCC": "a", "cc": "b", "x-delivery-count": "7", headerAttempts: "9", headerSubject: "elsewhere", "h-x": "c", "X-Odd": "d", bus.HeaderTrace: "t"}}
	out := convert([]bus.Message{sent}, "exchange", amqp.Persistent)[0]
	for _, name := range []string{"CC", "BCC", "x-delivery-count", headerAttempts, headerSubject} {
		if _, there := out.message.Headers[name]; there {
			t.Errorf("the broker would take the header %s for its own", name)
		}
	}
	if err := out.message.Headers.Validate(); err != nil {
		t.Error(err)
	}
	in := &amqp.Delivery{RoutingKey: out.key, MessageId: out.message.MessageId, Headers: out.message.Headers, Body: out.message.Body}
	if diff := cmp.Diff(sent, received(in)); diff != "" {
		t.Errorf("what arrives differs (-sent +got):\n%s", diff)
	}
	if got := attempt(in); got != 1 {
		t.Errorf("it comes as attempt %d, want 1", got)
	}

	later := delayed(&bus.Delivery{Message: received(in), Attempt: 3}, "queue", 1500*time.Microsecond)
	if later.key != "queue" || later.exchange != "" || !later.mandatory || later.message.Expiration != "2" {
		t.Errorf("the delayed message goes to %q/%q, mandatory %v, and expires after %s ms", later.exchange, later.key, later.mandatory, later.message.Expiration)
	}
	again := &amqp.Delivery{RoutingKey: "queue", MessageId: "1", Headers: later.message.Headers, Body: later.message.Body}
	again.Headers[headerCount] = int64(2)
	if diff := cmp.Diff(sent, received(again)); diff != "" {
		t.Errorf("what arrives after a delay differs (-sent +got):\n%s", diff)
	}
	if got := attempt(again); got != 6 {
		t.Errorf("after 3 attempts and 2 more that were given back it comes as attempt %d, want 6", got)
	}
}

func TestAHeadersNumberIsReadWhateverItsWidth(t *testing.T) {
	for _, v := range []any{int64(5), int32(5), int16(5), int8(5), uint8(5), uint16(5), uint32(5)} {
		if got := number(v); got != 5 {
			t.Errorf("%T: got %d, want 5", v, got)
		}
	}
	for _, v := range []any{nil, "5", 5.0, int64(-1)} {
		if got := number(v); got != 0 {
			t.Errorf("%T %v: got %d, want 0", v, v, got)
		}
	}
}

func TestADeathTellsItsQueueAndReason(t *testing.T) {
	for _, c := range []struct {
		headers       amqp.Table
		queue, reason string
	}{
		{nil, "", "unknown"},
		{amqp.Table{"x-death": "odd"}, "", "unknown"},
		{amqp.Table{"x-death": []any{amqp.Table{"queue": "q", "reason": "maxlen"}, amqp.Table{"queue": "earlier", "reason": "expired"}}}, "q", "maxlen"},
		{amqp.Table{"x-death": []any{amqp.Table{"queue": "q", "reason": "made up"}}}, "q", "unknown"},
	} {
		if queue, reason := death(c.headers); queue != c.queue || reason != c.reason {
			t.Errorf("%v: got %q and %q, want %q and %q", c.headers, queue, reason, c.queue, c.reason)
		}
	}
}
