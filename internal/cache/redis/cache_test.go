package redis_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"millrace/internal/cache"
	"millrace/internal/cache/redis"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// text is a value, with its version for what looks at it.
type text struct {
	Text    string
	Version int64
}

// instance is a cache on a Redis.
type instance struct {
	*cache.Cache[text]
	t   testing.TB
	reg *prometheus.Registry
}

// bus connects instances.
type bus struct {
	mu       sync.Mutex
	next     int
	handlers map[int]func([]byte)
}

func (b *bus) Send(_ context.Context, data []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, handle := range b.handlers {
		handle(data)
	}
	return nil
}

func (b *bus) Listen(_ context.Context, handle func([]byte)) (func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.handlers == nil {
		b.handlers = make(map[int]func([]byte))
	}
	id := b.next
	b.next++
	b.handlers[id] = handle
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.handlers, id)
	}, nil
}

// options are those of an instance's cache.
func options(r cache.Remote, peers cache.Peers, id string, reg *prometheus.Registry) cache.Options[text] {
	return cache.Options[text]{
		Name: name, TTL: time.Minute, EagerAt: -1, HardTimeout: 5 * time.Second, RemoteTimeout: 2 * time.Second,
		Weigh:  func(_ string, v text) int { return len(v.Text) },
		Remote: r, Peers: peers, Instance: id, Metrics: cache.NewMetrics(reg),
		Encode: func(v text) ([]byte, error) { return json.Marshal(v) },
		Decode: func(b []byte) (v text, err error) { return v, json.Unmarshal(b, &v) },
	}
}

// start opens an instance at an address and waits until it uses Redis, if that is there.
func start(t testing.TB, s *servers.Redis, addr string, peers cache.Peers, change func(*cache.Options[text])) *instance {
	t.Helper()
	r := connectTo(t, s, func(o *redis.Options) { o.Addresses = []string{addr} })
	in := &instance{t: t, reg: prometheus.NewRegistry()}
	o := options(r, peers, fmt.Sprintf("%p", in), in.reg)
	if change != nil {
		change(&o)
	}
	c, err := cache.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	in.Cache = c
	return in
}

// metric reads a metric, one with that label if one is given.
func (in *instance) metric(name, label string) (sum float64) {
	families, err := in.reg.Gather()
	if err != nil {
		in.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "millrace_cache_"+name && (label == "" || strings.Contains(m.String(), `value:"`+label+`"`)) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// here waits until Redis is used and knows everything.
func (in *instance) here() *instance {
	in.t.Helper()
	eventually(in.t, "Redis is used", func() bool { return in.metric("remote_away", "") == 0 && in.metric("unsent", "remote") == 0 })
	return in
}

func (in *instance) away() {
	in.t.Helper()
	eventually(in.t, "it is seen that Redis is away", func() bool { return in.metric("remote_away", "") == 1 })
}

// from is a load that brings a value.
func from(v string, version int64, tags ...string) func(context.Context) (cache.Loaded[text], error) {
	return func(context.Context) (cache.Loaded[text], error) {
		return cache.Loaded[text]{Value: text{v, version}, Version: version, Tags: tags}, nil
	}
}

// unwanted is a load that must not happen.
func (in *instance) unwanted(context.Context) (cache.Loaded[text], error) {
	in.t.Error("it was loaded")
	return cache.Loaded[text]{}, errors.New("unwanted")
}

func (in *instance) want(key string, load func(context.Context) (cache.Loaded[text], error), v, level string) {
	in.t.Helper()
	e, err := in.Get(testContext(in.t), key, load)
	if err != nil {
		in.t.Fatalf("%s: %v", key, err)
	}
	if e.Value.Text != v || e.Level != level {
		in.t.Fatalf("%s: got %q from %s, want %q from %s", key, e.Value.Text, e.Level, v, level)
	}
}

// stored has a value loaded, and waits until another instance could read it.
func (in *instance) stored(r remote, key, v string, version int64, tags ...string) {
	in.t.Helper()
	in.want(key, from(v, version, tags...), v, "load")
	eventually(in.t, "it is in Redis", func() bool { return r.read(key, "look").Found })
}

func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !so(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come about that %s", what)
		}
	}
}

func TestInstancesThatMissAtTheSameTimeLoadOnce(t *testing.T) {
	s := shared.Redis(t)
	var loads atomic.Int64
	release, began := make(chan struct{}), make(chan struct{})
	load := func(context.Context) (cache.Loaded[text], error) {
		if loads.Add(1) == 1 {
			close(began)
		}
		<-release
		return cache.Loaded[text]{Value: text{Text: "v"}}, nil
	}
	var all []*instance
	for range 3 {
		all = append(all, start(t, s, s.Addr(), nil, nil).here())
	}
	var wg sync.WaitGroup
	var levels sync.Map
	get := func(in *instance) {
		e, err := in.Get(testContext(t), "k", load)
		if err != nil || e.Value.Text != "v" {
			t.Errorf("got %q, %v", e.Value.Text, err)
		}
		levels.Store(e.Level, true)
	}
	wg.Go(func() { get(all[0]) })
	<-began
	for i := range 999 {
		wg.Go(func() { get(all[i%3]) })
	}
	close(release)
	wg.Wait()
	if n := loads.Load(); n != 1 {
		t.Errorf("%d loads", n)
	}
	if _, ok := levels.Load("remote"); !ok {
		t.Error("nobody got it from Redis")
	}
	// That there is nothing is shared too.
	if _, err := all[0].Get(testContext(t), "none", func(context.Context) (cache.Loaded[text], error) {
		return cache.Loaded[text]{}, cache.ErrNotFound
	}); !errors.Is(err, cache.ErrNotFound) {
		t.Error(err)
	}
	r := checked(t, connectTo(t, s, nil))
	eventually(t, "it is in Redis", func() bool { return r.read("none", "look").Found })
	if _, err := all[1].Get(testContext(t), "none", all[1].unwanted); !errors.Is(err, cache.ErrNotFound) {
		t.Error(err)
	}
}

func TestWhoWaitsForAnInstanceThatDiedLoadsItselfInTheEnd(t *testing.T) {
	s := shared.Redis(t)
	r := checked(t, connectTo(t, s, nil))
	in := start(t, s, s.Addr(), nil, func(o *cache.Options[text]) { o.HardTimeout = 200 * time.Millisecond }).here()
	rec, err := r.r.Read(testContext(t), name, "k", cache.Want{Token: "died", Lease: 2 * time.Second})
	if err != nil || !rec.Leased {
		t.Fatal(rec, err)
	}
	in.want("k", from("v", 0), "v", "load")
	if rec := r.read("k", "look"); rec.Found {
		t.Errorf("it was stored without a lease: %+v", rec)
	}
}

func TestALoadThatFailsLetsTheNextInstanceLoad(t *testing.T) {
	s := shared.Redis(t)
	a, b := start(t, s, s.Addr(), nil, nil).here(), start(t, s, s.Addr(), nil, nil).here()
	release, began := make(chan struct{}), make(chan struct{})
	failed := make(chan error)
	go func() {
		_, err := a.Get(testContext(t), "k", func(context.Context) (cache.Loaded[text], error) {
			close(began)
			<-release
			return cache.Loaded[text]{}, errors.New("the database is away")
		})
		failed <- err
	}()
	<-began
	close(release)
	b.want("k", from("v", 0), "v", "load")
	if err := <-failed; err == nil {
		t.Error("the first got no error")
	}
}

func TestAnotherInstancesValueIsReadFromRedisAndServedStaleWhenTheLoadFails(t *testing.T) {
	s := shared.Redis(t)
	now := time.Now()
	a := start(t, s, s.Addr(), nil, nil).here()
	r := checked(t, connectTo(t, s, nil))
	a.stored(r, "k", "v", 3, "t")
	b := start(t, s, s.Addr(), nil, func(o *cache.Options[text]) { o.Now = func() time.Time { return now } }).here()
	e, err := b.Get(testContext(t), "k", b.unwanted)
	if err != nil || e.Level != "remote" || e.Version != 3 || e.Age > time.Minute {
		t.Errorf("got %+v, %v", e, err)
	}
	// Over its time in Redis.
	rec := r.read("old", "x")
	old := record(`{"Text":"old"}`, 0, rec.Seq)
	old.Left = time.Millisecond
	r.store("old", "x", old, true)
	eventually(t, "it is over its time", func() bool { return r.read("old", "y").Left <= 0 })
	if err := r.r.Release(testContext(t), name, "old", "y"); err != nil {
		t.Fatal(err)
	}
	e, err = b.Get(testContext(t), "old", func(context.Context) (cache.Loaded[text], error) {
		return cache.Loaded[text]{}, errors.New("the database is away")
	})
	if err != nil || e.Value.Text != "old" || !e.Stale {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestWhatCannotBeDecodedIsLoaded(t *testing.T) {
	s := shared.Redis(t)
	r := checked(t, connectTo(t, s, nil))
	r.load("k", "of another version of the program", 0)
	in := start(t, s, s.Addr(), nil, nil).here()
	in.want("k", from("v", 0), "v", "load")
	if n := in.metric("remote_errors_total", "decode"); n != 1 {
		t.Errorf("%g errors were counted", n)
	}
}

func TestAPutIsReadByTheOthersAndAnInvalidationByNobody(t *testing.T) {
	s := shared.Redis(t)
	b := &bus{}
	one, two := start(t, s, s.Addr(), b, nil).here(), start(t, s, s.Addr(), b, nil).here()
	ctx := testContext(t)
	two.want("k", from("1", 1), "1", "load")
	one.Put(ctx, "k", cache.Loaded[text]{Value: text{"2", 2}, Version: 2})
	one.want("k", one.unwanted, "2", "ram")
	eventually(t, "the other one reads what was put", func() bool {
		e, err := two.Get(ctx, "k", two.unwanted)
		return err == nil && e.Value.Text == "2"
	})
	one.Invalidate(ctx, cache.Change{Key: "k", Version: 3})
	one.want("k", from("3", 3), "3", "load")
	eventually(t, "the other one has the new one", func() bool {
		e, err := two.Get(ctx, "k", from("3", 3))
		return err == nil && e.Value.Text == "3"
	})
	one.Put(ctx, "unversioned", cache.Loaded[text]{Value: text{Text: "u"}})
	one.here().want("unversioned", one.unwanted, "u", "ram")
	if rec := checked(t, connectTo(t, s, nil)).read("unversioned", "look"); rec.Found {
		t.Errorf("an unversioned put is in Redis: %+v", rec)
	}
}

func TestATagInvalidatesInRedisToo(t *testing.T) {
	s := shared.Redis(t)
	r := checked(t, connectTo(t, s, nil))
	one, two := start(t, s, s.Addr(), nil, nil).here(), start(t, s, s.Addr(), nil, nil).here()
	one.stored(r, "k", "old", 0, "t")
	one.stored(r, "other", "old", 0, "u")
	one.InvalidateTags(testContext(t), "t")
	one.want("k", from("new", 0, "t"), "new", "load")
	one.here()
	two.want("k", from("new", 0, "t"), "new", "load")
	two.want("other", two.unwanted, "old", "remote")
}

// Each of these takes Redis away from an instance in another way.
func TestNothingThatWasInvalidatedWhileRedisWasAwayIsServedAfter(t *testing.T) {
	ctx := testContext(t)
	for _, c := range []struct {
		name       string
		gone, back func(s *servers.Redis, p *servers.Proxy) error
	}{
		{"cut off",
			func(_ *servers.Redis, p *servers.Proxy) error { p.Partition(); return nil },
			func(_ *servers.Redis, p *servers.Proxy) error { return p.Pass() }},
		{"a black hole",
			func(_ *servers.Redis, p *servers.Proxy) error { p.BlackHole(); return nil },
			func(_ *servers.Redis, p *servers.Proxy) error { return p.Pass() }},
		{"slow",
			func(_ *servers.Redis, p *servers.Proxy) error { p.Latency(time.Second); return nil },
			func(_ *servers.Redis, p *servers.Proxy) error { return p.Pass() }},
		{"paused",
			func(s *servers.Redis, _ *servers.Proxy) error { return s.Pause() },
			func(s *servers.Redis, _ *servers.Proxy) error { return s.Resume() }},
		{"killed, and restarted with what it had",
			func(s *servers.Redis, _ *servers.Proxy) error { return s.Kill() },
			func(s *servers.Redis, _ *servers.Proxy) error { return s.Restart(ctx) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := servertest.Redis(t, servers.RedisOptions{Durable: true})
			p := servertest.Proxy(t, servers.ProxyOptions{Target: s.Addr()})
			r := checked(t, connectTo(t, s, nil))
			in := start(t, s, p.Addr(), nil, func(o *cache.Options[text]) { o.RemoteTimeout = 500 * time.Millisecond }).here()
			in.stored(r, "by key", "old", 0)
			in.stored(r, "by version", "old", 1)
			in.stored(r, "by put", "old", 1)
			in.stored(r, "by tag", "old", 0, "t")
			in.stored(r, "untouched", "old", 0)
			if err := c.gone(s, p); err != nil {
				t.Fatal(err)
			}
			in.want("unknown", from("v", 0), "v", "load")
			in.away()
			// From now on nothing waits for Redis.
			calls := in.metric("remote_errors_total", "read")
			for i := range 1000 {
				in.want(fmt.Sprint("k", i), from("v", 0), "v", "load")
			}
			if n := in.metric("remote_errors_total", "read") - calls; n != 0 {
				t.Errorf("%g reads of Redis were tried although it is away", n)
			}
			in.want("untouched", in.unwanted, "old", "ram")
			in.Invalidate(ctx, cache.Change{Key: "by key"}, cache.Change{Key: "by version", Version: 2})
			in.Put(ctx, "by put", cache.Loaded[text]{Value: text{"new", 2}, Version: 2})
			in.InvalidateTags(ctx, "t")
			if n := in.metric("unsent", "remote"); n != 4 {
				t.Errorf("%g changes are remembered", n)
			}
			if err := c.back(s, p); err != nil {
				t.Fatal(err)
			}
			in.here()
			// Another instance that has seen none of it.
			fresh := start(t, s, s.Addr(), nil, nil).here()
			for key, version := range map[string]int64{"by key": 0, "by version": 2, "by put": 2, "by tag": 0} {
				fresh.want(key, from("new", version), "new", "load")
			}
		})
	}
}

func TestWhatAnInstanceCouldNotTellRedisTheOthersRemember(t *testing.T) {
	s := servertest.Redis(t, servers.RedisOptions{})
	p := servertest.Proxy(t, servers.ProxyOptions{Target: s.Addr()})
	b := &bus{}
	r := checked(t, connectTo(t, s, nil))
	writer := start(t, s, p.Addr(), b, nil).here()
	other := start(t, s, s.Addr(), b, nil).here()
	for key, tags := range map[string][]string{"k": nil, "tagged": {"t"}} {
		writer.stored(r, key, "old", 1, tags...)
		other.want(key, other.unwanted, "old", "remote")
	}
	p.Partition()
	writer.Invalidate(testContext(t), cache.Change{Key: "k", Version: 2})
	writer.InvalidateTags(testContext(t), "t")
	eventually(t, "the broadcast arrives", func() bool { return other.metric("invalidations_total", "peer") == 2 })
	// Redis has the old ones still, or the other has told it.
	other.want("k", from("new", 2), "new", "load")
	other.want("tagged", from("new", 2), "new", "load")
	other.here()
	third := start(t, s, s.Addr(), nil, nil).here()
	if e, err := third.Get(testContext(t), "k", from("new", 2)); err != nil || e.Value.Text != "new" {
		t.Errorf("a third one got %+v, %v", e, err)
	}
}

func TestWhenTooMuchIsUntoldEverythingInRedisIsDisbelieved(t *testing.T) {
	s := servertest.Redis(t, servers.RedisOptions{})
	p := servertest.Proxy(t, servers.ProxyOptions{Target: s.Addr()})
	r := checked(t, connectTo(t, s, nil))
	in := start(t, s, p.Addr(), nil, nil).here()
	in.stored(r, "0", "old", 0)
	in.stored(r, "untouched", "old", 0)
	p.Partition()
	for i := range 50_001 {
		in.Invalidate(testContext(t), cache.Change{Key: fmt.Sprint(i)})
	}
	in.away()
	if n := in.metric("unsent", "remote"); n > 50_000 {
		t.Errorf("%g changes are remembered", n)
	}
	if err := p.Pass(); err != nil {
		t.Fatal(err)
	}
	in.here()
	other := start(t, s, s.Addr(), nil, nil).here()
	other.want("0", from("new", 0), "new", "load")
	other.want("untouched", from("new", 0), "new", "load")
}

func TestWithoutRedisAtTheStartTheCacheWorksAndUsesItLater(t *testing.T) {
	s := servertest.Redis(t, servers.RedisOptions{})
	p := servertest.Proxy(t, servers.ProxyOptions{Target: s.Addr()})
	p.Partition()
	in := start(t, s, p.Addr(), nil, nil)
	in.want("k", from("v", 0), "v", "load")
	in.want("k", in.unwanted, "v", "ram")
	in.Invalidate(testContext(t), cache.Change{Key: "k"})
	if err := p.Pass(); err != nil {
		t.Fatal(err)
	}
	in.here().stored(checked(t, connectTo(t, s, nil)), "k", "v", 0)
}

func TestAFlushedRedisCostsLoadsOnly(t *testing.T) {
	s := servertest.Redis(t, servers.RedisOptions{})
	r := checked(t, connectTo(t, s, nil))
	in := start(t, s, s.Addr(), nil, nil).here()
	in.stored(r, "k", "v", 0)
	if err := s.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
	in.want("k", in.unwanted, "v", "ram")
	start(t, s, s.Addr(), nil, nil).here().want("k", from("v", 0), "v", "load")
}
