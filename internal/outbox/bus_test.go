package outbox_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/bus"
	"millrace/internal/outbox"
)

// fakeBus notes what is published.
type fakeBus struct {
	bus.Bus
	published []bus.Message
	err       error
}

func (b *fakeBus) Publish(_ context.Context, messages []bus.Message) error {
	b.published = append(b.published, messages...)
	return b.err
}

func TestRowsBecomeMessagesWithTheirTraceAndTenant(t *testing.T) {
	b := &fakeBus{}
	err := outbox.BusDeliver(b)(t.Context(), []outbox.Row{
		{Seq: 1, TenantID: "demo", Subject: "orders.paid", ID: "a-1", Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Data: []byte("{}")},
		{Seq: 2, Subject: "orders.placed", ID: "a-2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []bus.Message{
		{Subject: "orders.paid", ID: "a-1", Data: []byte("{}"), Headers: map[string]string{
			"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tenant": "demo"}},
		{Subject: "orders.placed", ID: "a-2"},
	}
	if diff := cmp.Diff(want, b.published); diff != "" {
		t.Errorf("messages differ (-want +got):\n%s", diff)
	}
}

func TestAMessageThatCannotBeSentNamesItsRow(t *testing.T) {
	b := &fakeBus{err: &bus.InvalidError{Index: 1, Reason: "too large"}}
	err := outbox.BusDeliver(b)(t.Context(), []outbox.Row{{Seq: 11}, {Seq: 12}})
	var bad *outbox.RowError
	if !errors.As(err, &bad) || bad.Seq != 12 || bad.Reason != "too large" {
		t.Errorf("got %v, want a RowError for row 12", err)
	}
	b.err = bus.ErrUnavailable
	if err := outbox.BusDeliver(b)(t.Context(), []outbox.Row{{Seq: 11}}); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}
