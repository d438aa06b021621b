package kafka_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"millrace/internal/stream"
	"millrace/internal/stream/kafka"
)

func TestALookAtTheTopicSaysWhatIsWrongAndMakesNone(t *testing.T) {
	c := newCluster(t)
	o := options(c)
	look := func(record int, want ...string) stream.Facts {
		t.Helper()
		f := kafka.Examine(t.Context(), o, record)
		if !slices.EqualFunc(f.Problems, want, strings.Contains) {
			t.Errorf("problems %q, want ones that say %q", f.Problems, want)
		}
		return f
	}
	if f := look(100 << 10); !f.Reachable || !strings.Contains(f.Found, "not there yet") {
		t.Errorf("before the first start: %+v", f)
	}
	a := admin(t, c)
	if topics, err := a.ListTopics(t.Context()); err != nil || len(topics) != 0 {
		t.Errorf("the look made topics: %v, error %v", topics.Names(), err)
	}
	open(t, o)
	if f := look(100 << 10); f.Found != "8 of 8 partitions are there" {
		t.Errorf("afterwards: %+v", f)
	}
	look(o.MaxMessageBytes, "max.message.bytes")
	alter := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: new("1000")}}
	if _, err := a.AlterTopicConfigs(t.Context(), alter, "millrace-events"); err != nil {
		t.Fatal(err)
	}
	look(100<<10, "retention.ms is 1000: set it to -1")
	o.Partitions = 1000
	look(100<<10, "Partitions is 1000")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if f := kafka.Examine(ctx, kafka.Options{Brokers: []string{"127.0.0.1:1"}}, 1); f.Reachable || len(f.Problems) != 1 {
		t.Errorf("a cluster that is not there: %+v", f)
	}
}
