package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stageOf is one fault and what comes after it.
type stageOf struct {
	name string
	// tenant names the crowd that is there meanwhile.
	tenant string
	fault  func(ctx context.Context, t *testing.T, c *cluster, w *crowd)
	// within is how soon after the fault everything must work again.
	within time.Duration
	// errors says that an instance has reason to log errors: a service that it needs is
	// away.
	errors bool
}

// stageTimeout bounds one stage with all its checks.
const stageTimeout = 4 * time.Minute

func TestNothingIsLostDoubledOrOversoldWhateverServiceOfAClusterFails(t *testing.T) {
	if setting(t, "TORTURE_KILLS", 5) == 0 {
		t.Skip("TORTURE_KILLS=0")
	}
	seed := uint64(setting(t, "TORTURE_SEED", int(time.Now().UnixNano()&0xffffff)))
	t.Logf("TORTURE_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	c := newCluster(t.Context(), t).withNATS(t)
	c.start(t.Context(), t, instanceCount)
	var left []*crowd
	for _, s := range []stageOf{
		{name: "PostgreSQL is killed in the middle of commits and comes back", tenant: "kill", fault: killPostgres, within: 45 * time.Second, errors: true},
		{name: "the replies to commits are lost", tenant: "cut", within: 20 * time.Second, errors: true,
			fault: func(ctx context.Context, t *testing.T, c *cluster, _ *crowd) {
				loseCommits(ctx, t, c, rng, setting(t, "TORTURE_CUTS", 40))
			}},
		{name: "the replica falls behind, dies and comes back", tenant: "replica", fault: loseReplica, within: 20 * time.Second},
		{name: "Redis is flushed, paused, gone and back", tenant: "redis", fault: loseRedis, within: 20 * time.Second},
		{name: "the broker loses a node, is cut off, and comes back empty", tenant: "broker", fault: loseBroker, within: 40 * time.Second},
		{name: "an instance is killed and another one paused", tenant: "instance", within: 40 * time.Second, errors: true, // deadlines pass while it sleeps
			fault: func(ctx context.Context, t *testing.T, c *cluster, _ *crowd) {
				killAndPauseInstances(ctx, t, c, time.Duration(setting(t, "TORTURE_PAUSE", 30))*time.Second)
			}},
		{name: "all instances are restarted one after the other", tenant: "rolling", fault: restartAll, within: 20 * time.Second},
		{name: "some are slow to read, to answer and to pay", tenant: "slow", fault: beSlow, within: 20 * time.Second},
		{name: "an instance and its disk are gone for good", tenant: "disk", fault: loseDisk, within: 40 * time.Second, errors: true},
	} {
		t.Run(s.name, func(t *testing.T) {
			left = append(left, c.stage(t, s))
		})
	}
	// What was still on its way at the end of a stage had to come through the others.
	for _, w := range left {
		w.checkOrders(t.Context(), t)
	}
	c.stopAll(t.Context(), t)
}

// stage lets a crowd come, does harm, and looks whether all recovers and no event
// was lost. Orders take their time to settle; they are checked in the end.
func (c *cluster) stage(t *testing.T, s stageOf) *crowd {
	ctx, cancel := context.WithTimeout(t.Context(), stageTimeout)
	defer cancel()
	checked := false
	defer func() {
		if !checked {
			c.checkLogs(t, true) // it failed: the logs may say why
		}
	}()
	w := newCrowd(ctx, t, c, s.tenant)
	c.busy(ctx, t, w)
	s.fault(ctx, t, c, w)
	c.recovered(ctx, t, s.within)
	c.busy(ctx, t, w)
	w.leave(t)
	w.checkEvents(ctx, t)
	checked = true
	c.checkLogs(t, s.errors)
	return w
}

// busyBound is how long the slowest client may wait for the next acknowledgement
// while a fault lasts.
const busyBound = 30 * time.Second

// busy waits until everyone got something acknowledged, from now on.
func (c *cluster) busy(ctx context.Context, t *testing.T, w *crowd) {
	t.Helper()
	events, orders := w.files()
	files := append(events, orders[:2]...) // the hot product may be sold out
	before := map[string]int64{}
	size := func(file string) int64 {
		info, err := os.Stat(file)
		if err != nil {
			return 0 // not yet begun
		}
		return info.Size()
	}
	for _, file := range files {
		before[file] = size(file)
	}
	c.eventually(ctx, t, busyBound, "everyone gets something acknowledged", func(context.Context) error {
		for _, file := range files {
			if size(file) <= before[file] {
				return fmt.Errorf("nothing new in %s", filepath.Base(file))
			}
		}
		return nil
	})
}

// pause lets the crowd go on for a while under a fault.
func pause(ctx context.Context, t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
	}
}

func killPostgres(ctx context.Context, t *testing.T, c *cluster, w *crowd) {
	if err := errors.Join(c.postgres.Kill(), c.postgres.Restart(ctx)); err != nil {
		t.Fatal(err)
	}
	c.recovered(ctx, t, 45*time.Second)
	c.busy(ctx, t, w)
	if err := c.postgres.Kill(); err != nil {
		t.Fatal(err)
	}
	down := time.Now()
	for _, i := range c.instances {
		// Events are taken all the time; orders are refused, and soon.
		for time.Since(down) < 3*time.Second || i != c.instances[0] {
			if _, r := c.probes.send(ctx, i.server.URL); r.status != http.StatusAccepted {
				t.Fatalf("%s did not take an event while PostgreSQL was down: %s", i.name, r)
			}
			if i != c.instances[0] {
				break
			}
		}
		_, r := c.probes.place(ctx, i.server.URL)
		if r.status != http.StatusServiceUnavailable || r.took > 10*time.Second {
			t.Fatalf("%s answered an order while PostgreSQL was down after %s: %s", i.name, r.took, r)
		}
	}
	if err := c.postgres.Restart(ctx); err != nil {
		t.Fatal(err)
	}
}

// loseCommits cuts connections after a COMMIT was carried out, and some before, at
// random moments on random instances.
func loseCommits(ctx context.Context, t *testing.T, c *cluster, rng *rand.Rand, cuts int) {
	outcomes := map[string]int{}
	for n := range cuts {
		proxy := c.instances[rng.IntN(len(c.instances))].proxy
		pause(ctx, t, time.Duration(rng.Int64N(int64(100*time.Millisecond))))
		arm := proxy.LoseCommitReply
		if n%4 == 3 {
			arm = proxy.CutCommit
		}
		fault := arm()
		timer := time.NewTimer(10 * time.Second)
		select {
		case <-fault.Done():
		case <-timer.C:
			t.Fatalf("nothing was committed within 10 s, after %d cuts", n)
		case <-ctx.Done():
			t.Fatal(context.Cause(ctx))
		}
		timer.Stop()
		outcomes[fault.Outcome()]++
	}
	t.Logf("%d connections were cut at their COMMIT, whose outcomes were %v", cuts, outcomes)
	if cuts >= 4 && outcomes["COMMIT"] < cuts/2 {
		t.Errorf("only %d of %d replies that were lost said COMMIT: %v", outcomes["COMMIT"], cuts, outcomes)
	}
}

// loseReplica expects that whatever becomes of the replica, lists are never older
// than the bound and always answered.
func loseReplica(ctx context.Context, t *testing.T, c *cluster, _ *crowd) {
	by := func(target string) (n float64) {
		for _, i := range c.instances {
			m, err := i.server.Metrics(ctx)
			if err != nil {
				t.Fatal(err)
			}
			v, _ := m.Sum("millrace_store_reads_total", "target="+target)
			n += v
		}
		return n
	}
	readsFrom := func(target string) {
		t.Helper()
		before := by(target)
		c.eventually(ctx, t, 20*time.Second, "lists are read from the "+target, func(ctx context.Context) error {
			for _, i := range c.instances {
				if r := c.probes.ask(ctx, http.MethodGet, i.server.URL+"/orders?limit=1&customerId=prober", "", ""); r.status != http.StatusOK {
					t.Fatalf("%s has no list of orders: %s", i.name, r)
				}
			}
			if now := by(target); now <= before {
				return fmt.Errorf("%v reads", now-before)
			}
			return nil
		})
	}
	neverOlder := func(d time.Duration) { c.freshLists(ctx, t, d) }
	readsFrom("replica")
	neverOlder(time.Second)
	if err := c.replica.PauseReplay(ctx); err != nil {
		t.Fatal(err)
	}
	neverOlder(4 * time.Second)
	readsFrom("primary")
	if err := c.replica.ResumeReplay(ctx); err != nil {
		t.Fatal(err)
	}
	readsFrom("replica")
	if err := c.replica.Kill(); err != nil {
		t.Fatal(err)
	}
	neverOlder(2 * time.Second)
	readsFrom("primary")
	if err := c.replica.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	readsFrom("replica")
}

// freshLists places orders for a while and expects each in the buyer's list of
// every instance as soon as it is as old as a read may be.
func (c *cluster) freshLists(ctx context.Context, t *testing.T, d time.Duration) {
	t.Helper()
	var wg sync.WaitGroup
	defer wg.Wait()
	for end := time.Now().Add(d); time.Now().Before(end); pause(ctx, t, 300*time.Millisecond) {
		id, r := c.probes.place(ctx, c.nginx.URL())
		if id == "" {
			t.Errorf("no order is placed: %s", r)
			return
		}
		due := time.Now().Add(replicaMaxLag)
		wg.Go(func() {
			timer := time.NewTimer(time.Until(due))
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
			for _, i := range c.instances {
				r := c.probes.ask(ctx, http.MethodGet, i.server.URL+"/orders?limit=100&customerId=prober", "", "")
				if r.status != http.StatusOK || !containsOrder(r.body, id) {
					t.Errorf("%s does not list an order that was placed %s ago, more than %s: %.200s", i.name, time.Since(due)+replicaMaxLag, replicaMaxLag, r)
				}
			}
		})
	}
}

func loseBroker(ctx context.Context, t *testing.T, c *cluster, w *crowd) {
	goesOn := func(what string) {
		t.Helper()
		c.paidOn(ctx, t, what, 25*time.Second)
		c.busy(ctx, t, w)
	}
	node := c.nats.Nodes()[1]
	if err := node.Kill(); err != nil {
		t.Fatal(err)
	}
	goesOn("with a node killed")
	if err := node.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.nats.Pause(); err != nil {
		t.Fatal(err)
	}
	goesOn("with all nodes silent")
	if err := errors.Join(c.nats.Resume(), c.nats.Kill()); err != nil {
		t.Fatal(err)
	}
	goesOn("with all nodes killed")
	if err := c.nats.RestartEmpty(ctx); err != nil {
		t.Fatal(err)
	}
	c.busUsed(ctx, t, 40*time.Second)
}

// busUsed expects that messages come to the workers over the broker again, not only
// by the sweeper.
func (c *cluster) busUsed(ctx context.Context, t *testing.T, within time.Duration) {
	t.Helper()
	c.eachMetric(ctx, t, within, "is connected to the broker", func(v float64) bool { return v == 1 }, "millrace_bus_connected")
	for _, i := range c.instances {
		before, err := i.metric(ctx, "millrace_bus_published_total")
		if err != nil {
			t.Fatal(err)
		}
		c.eventually(ctx, t, within, i.name+" publishes to the broker", func(ctx context.Context) error {
			now, err := i.metric(ctx, "millrace_bus_published_total")
			if err == nil && now <= before {
				err = errors.New("nothing was published")
			}
			return err
		})
	}
	delivered := func(ctx context.Context) (n float64, err error) {
		for _, i := range c.instances {
			m, err := i.server.Metrics(ctx)
			if err != nil {
				return 0, err
			}
			v, _ := m.Sum("millrace_bus_delivered_total")
			n += v
		}
		return n, nil
	}
	before, err := delivered(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c.eventually(ctx, t, within, "messages are delivered by the broker", func(ctx context.Context) error {
		now, err := delivered(ctx)
		if err == nil && now <= before {
			err = errors.New("nothing was delivered")
		}
		return err
	})
}

func killAndPauseInstances(ctx context.Context, t *testing.T, c *cluster, asleep time.Duration) {
	victim := c.instances[0]
	victim.server.Kill()
	c.run(t, victim)
	c.ready(ctx, t, victim)
	c.recovered(ctx, t, 30*time.Second)
	sleeper := c.instances[1]
	end := time.Now().Add(asleep)
	sleeper.signal(syscall.SIGSTOP)
	c.paidOn(ctx, t, "while "+sleeper.name+" is paused", 20*time.Second, c.instances[0], c.instances[2])
	if asleep > 2*outboxSilence {
		c.eventually(ctx, t, time.Until(end), "what "+sleeper.name+" left in the outbox is taken over", func(ctx context.Context) error {
			return c.outboxOf(ctx, sleeper.name)
		})
	}
	pause(ctx, t, time.Until(end))
	sleeper.signal(syscall.SIGCONT)
}

// outboxOf is an error while there are rows of an instance in the outbox.
func (c *cluster) outboxOf(ctx context.Context, name string) error {
	n, err := c.count(ctx, `SELECT count(*) FROM outbox WHERE owner = $1`, name)
	if err == nil && n != 0 {
		err = fmt.Errorf("%d rows of %s in the outbox", n, name)
	}
	return err
}

func restartAll(ctx context.Context, t *testing.T, c *cluster, w *crowd) {
	for _, i := range c.instances {
		stopping, cancel := context.WithTimeout(ctx, startTimeout)
		err := i.server.Stop(stopping)
		cancel()
		if err != nil {
			t.Fatalf("%s: %v", i.name, err)
		}
		if err := c.outboxOf(ctx, i.name); err != nil {
			t.Logf("left to others at the stop: %v", err)
		}
		c.busy(ctx, t, w)
		c.run(t, i)
		c.ready(ctx, t, i)
	}
}
