package kafka_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/internal/event"
	"millrace/internal/stream/kafka"
	"millrace/internal/stream/streamtest"
)

// answerLogDirs lets a function answer who asks what the partitions take, by
// broker.
func answerLogDirs(c *kfake.Cluster, answer func(node int32) *kmsg.DescribeLogDirsResponse) {
	c.ControlKey(int16(kmsg.DescribeLogDirs), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := answer(c.CurrentNode())
		resp.Version = r.GetVersion()
		return resp, nil, true
	})
}

// fill publishes until a partition is full.
func fill(t testing.TB, b *kafka.Broker, partition int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var err error
	for err == nil {
		_, err = b.Publish(ctx, partition, "", make([]byte, 100<<10))
	}
	if !errors.Is(err, event.ErrLogFull) {
		t.Fatalf("error %v, want ErrLogFull", err)
	}
}

func TestOneBrokerOfThreeThatAnswersIsEnoughAndWhatItDoesNotTellStays(t *testing.T) {
	c := newCluster(t)
	o := options(c)
	o.Partitions, o.MaxBytes = 2, 1<<20
	b := open(t, o)
	fill(t, b, 0)
	asked := make(chan struct{}, 1000)
	answerLogDirs(c, func(node int32) *kmsg.DescribeLogDirsResponse {
		resp := kmsg.NewPtrDescribeLogDirsResponse()
		if node != 0 {
			resp.ErrorCode = kerr.UnknownServerError.Code
			return resp
		}
		asked <- struct{}{}
		return resp // it has none of the partitions
	})
	giveUp := time.After(20 * time.Second)
	for range 3 { // the first two rounds have ended when the third has begun
		select {
		case <-asked:
		case <-giveUp:
			t.Fatal("the brokers are not asked")
		}
	}
	if err := b.Err(); err != nil {
		t.Errorf("two brokers that do not answer: %v", err)
	}
	if _, err := b.Publish(t.Context(), 0, "", []byte("a")); !errors.Is(err, event.ErrLogFull) {
		t.Errorf("the full partition that nobody tells of: error %v", err)
	}
	streamtest.Publish(t, b, 1, "b")
}

func TestAClusterOfWhichNoBrokerAnswersIsAway(t *testing.T) {
	c := newCluster(t)
	b := open(t, options(c))
	answerLogDirs(c, func(int32) *kmsg.DescribeLogDirsResponse {
		resp := kmsg.NewPtrDescribeLogDirsResponse()
		resp.ErrorCode = kerr.UnknownServerError.Code
		return resp
	})
	giveUp := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for b.Err() == nil {
		select {
		case <-tick.C:
		case <-giveUp:
			t.Fatal("nobody tells that the cluster is away")
		}
	}
}
