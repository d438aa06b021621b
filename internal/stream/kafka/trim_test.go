package kafka_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/internal/stream/streamtest"
)

func TestATopicMadeAnewWhileItIsTrimmedIsLeftAlone(t *testing.T) {
	c := newCluster(t)
	o := options(c)
	o.Partitions = 1
	b := open(t, o)
	streamtest.Publish(t, b, 0, "a")
	streamtest.Publish(t, b, 0, "b")
	before, err := b.State(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	meddler := admin(t, c)
	var lists, deletions atomic.Int64
	c.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if lists.Add(1) == 2 { // where it ends: the topic is known to be the one
			c.SleepControl(func() {
				if _, err := meddler.DeleteTopics(context.Background(), "millrace-events"); err != nil {
					t.Error(err)
				}
				if _, err := meddler.CreateTopic(context.Background(), 1, 3, nil, "millrace-events"); err != nil {
					t.Error(err)
				}
			})
		}
		return nil, nil, false
	})
	c.ControlKey(int16(kmsg.DeleteRecords), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		deletions.Add(1)
		return nil, nil, false
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_ = b.Trim(ctx, 0, before.ID, 2) // it may fail, while not all know the new topic
	if n := deletions.Load(); n != 0 || lists.Load() < 2 {
		t.Errorf("the new topic was trimmed %d times; %d questions where it begins and ends", n, lists.Load())
	}
}
