package nats_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/stream"
	"millrace/internal/stream/nats"
	"millrace/internal/stream/streamtest"
)

// wantProblems checks that each problem has one of these texts, in order.
func wantProblems(t *testing.T, f stream.Facts, want ...string) {
	t.Helper()
	ok := slices.EqualFunc(f.Problems, want, strings.Contains)
	if !ok {
		t.Errorf("problems %q, want ones that say %q", f.Problems, want)
	}
}

func TestALookAtStreamsSaysWhatIsWrongAndMakesNone(t *testing.T) {
	c := startCluster(t, 1, 1<<20)
	o := c.options(t)
	o.Partitions = 3
	look := func(record int) stream.Facts {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return nats.Examine(ctx, o, record)
	}
	f := look(512 << 10)
	wantProblems(t, f)
	if !f.Reachable || !strings.HasPrefix(f.Found, "0 of 3 partitions") {
		t.Errorf("before the first start: %+v", f)
	}
	js := c.jetStream(t)
	if names := js.StreamNames(t.Context()); len(drain(names.Name())) != 0 || names.Err() != nil {
		t.Errorf("the look made streams: %v", names.Err())
	}
	b := c.open(t, o)
	streamtest.Publish(t, b, 2, "a")
	f = look(512 << 10)
	wantProblems(t, f)
	if !strings.HasPrefix(f.Found, "3 of 3 partitions are there, with 1 messages") {
		t.Errorf("afterwards: %+v", f)
	}
	wantProblems(t, look(1<<20), "max_payload")

	s, err := js.Stream(t.Context(), o.Stream+"-1")
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.Discard = jetstream.DiscardOld
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	wantProblems(t, look(512<<10), "--discard=new")
	o.Partitions = 2
	wantProblems(t, look(512<<10), "--discard=new", "raise events.stream.partitions")
	o.Partitions = 1000
	wantProblems(t, look(512<<10), "Partitions is 1000")
	f = nats.Examine(t.Context(), nats.Options{URL: "nats://127.0.0.1:1"}, 1)
	wantProblems(t, f, "cannot be reached")
	if f.Reachable {
		t.Error("a server that is not there is reachable")
	}
}

func drain(names <-chan string) []string {
	var list []string
	for n := range names {
		list = append(list, n)
	}
	return list
}

func TestALookAtStreamsSeesServersThatAreAway(t *testing.T) {
	c := startCluster(t, 3, 1<<20)
	o := c.options(t)
	o.Partitions = 2
	streamtest.Publish(t, c.open(t, o), 0, "a")
	c.nodes[0].kill(t)
	c.nodes[1].kill(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for { // who is left may tell of replicas that are offline, or no more be the leader
		problems := strings.Join(nats.Examine(ctx, o, 1000).Problems, "\n")
		if strings.Contains(problems, o.Stream+"-0") && strings.Contains(problems, o.Stream+"-1") {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("with two of three servers away: %q", problems)
		}
	}
}
