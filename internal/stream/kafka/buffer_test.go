package kafka_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/internal/event"
	"millrace/internal/stream/streamtest"
)

func TestMessagesWithoutAnAnswerTakeBoundedMemory(t *testing.T) {
	c := newCluster(t)
	o := options(c)
	o.Partitions, o.MaxMessageBytes, o.BufferBytes = 1, 100<<10, 250<<10
	b := open(t, o)
	streamtest.Publish(t, b, 0, "a")
	release := make(chan struct{})
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		c.SleepControl(func() { <-release })
		return nil, nil, false
	})
	message := make([]byte, 100<<10)
	for range 2 { // their senders leave, they stay
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := b.Publish(ctx, 0, "", message); !errors.Is(err, event.ErrLogUnknown) {
			t.Errorf("a message that is not answered: %v", err)
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := b.Publish(ctx, 0, "", message); !errors.Is(err, event.ErrLogAway) {
		t.Errorf("a message beyond the bound: %v", err)
	}
	close(release)
	for {
		_, err := b.Publish(ctx, 0, "", message)
		if err == nil {
			break
		}
		if !errors.Is(err, event.ErrLogAway) || ctx.Err() != nil {
			t.Fatalf("after the brokers answered: %v", err)
		}
	}
}
