package follow

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// rarely is a poll that does not come within a test after the first.
func rarely(o *Options[row]) { o.PollEvery = time.Hour }

func (i *instance) mustEqualDatabase() {
	i.t.Helper()
	if diff := gocmp.Diff(i.db.all(), i.index.all()); diff != "" {
		i.t.Errorf("the index of %s is not what the database has (-database +index):\n%s", i.o.Instance, diff)
	}
}

func TestABroadcastMakesAWriteVisibleElsewhereWithoutAPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, net := newDatabase(), newNetwork()
		db.write("demo", "a=1")
		a, b := start(t, "a", db, net, rarely), start(t, "b", db, net, rarely)
		defer a.end()
		defer b.end()
		pass(time.Millisecond)
		polls := db.polls
		a.write("demo", "a=2", "b=1")
		a.write("new", "x=1")
		pass(10 * time.Millisecond)
		b.mustEqualDatabase()
		if db.polls != polls {
			t.Errorf("%d polls were needed", db.polls-polls)
		}
		for _, i := range []*instance{a, b} {
			if n := i.metric("lag_seconds"); n != 3 {
				t.Errorf("%s observed the lag of %v rows, want each of 3 once", i.o.Instance, n)
			}
			if n := i.metric("healed_total"); n != 0 {
				t.Errorf("%s counts %v rows as healed", i.o.Instance, n)
			}
		}
		if sent, received := a.metric("broadcasts_total", "sent"), b.metric("broadcasts_total", "received"); sent < 1 || sent != received {
			t.Errorf("%v sent, %v received", sent, received)
		}
		if own := a.metric("broadcasts_total", "received"); own != 0 {
			t.Errorf("a took %v messages of its own for another's", own)
		}
	})
}

func TestALostBroadcastIsHealedByTheNextPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, net := newDatabase(), newNetwork()
		a, b := start(t, "a", db, net, nil), start(t, "b", db, net, nil)
		defer a.end()
		defer b.end()
		pass(time.Second)
		net.set(func(n *network) { n.lost = true })
		a.write("demo", "a=1")
		pass(10 * time.Millisecond)
		if got := b.index.value("demo/a"); got != "" {
			t.Fatalf("the message was not lost: b has %q", got)
		}
		pass(2300 * time.Millisecond)
		b.mustEqualDatabase()
		if healed := b.metric("healed_total"); healed != 1 {
			t.Errorf("b counts %v rows as healed, want 1", healed)
		}
		if healed := a.metric("healed_total"); healed != 0 {
			t.Errorf("a, which wrote it, counts %v rows as healed", healed)
		}
	})
}

func TestMessagesThatComeTwiceAndLateChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, net := newDatabase(), newNetwork()
		net.twice = true
		a, b := start(t, "a", db, net, rarely), start(t, "b", db, net, rarely)
		defer a.end()
		defer b.end()
		pass(time.Millisecond)
		for n := range 20 {
			a.write("demo", fmt.Sprintf("a=%d", n))
			pass(7 * time.Millisecond)
		}
		pass(time.Second)
		reads := db.reads
		for _, change := range []int64{3, 20, 1, 20, 7} {
			for _, m := range messages("test", "a", map[string]int64{"demo": change}, false) {
				if err := net.Send(t.Context(), m); err != nil {
					t.Fatal(err)
				}
			}
		}
		pass(time.Second)
		b.mustEqualDatabase()
		if db.reads != reads {
			t.Errorf("%d reads of what was known", db.reads-reads)
		}
		if n := b.metric("lag_seconds"); n != 20 {
			t.Errorf("the lag of %v rows was observed, want each of 20 once", n)
		}
	})
}

func TestTheProgressOfALoadIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		for n := range 2000 {
			db.write("demo", fmt.Sprintf("k%04d=1", n))
		}
		db.pageRows = 500
		db.between = func() { time.Sleep(900 * time.Millisecond) }
		a := start(t, "a", db, nil, nil)
		defer a.end()
		pass(2 * time.Second)
		if err := a.Ready(); err == nil || err.Error() != "loading: 1,500 records" {
			t.Errorf("ready says %v", err)
		}
		pass(2 * time.Second)
		if err := a.Ready(); err != nil {
			t.Errorf("ready says %v", err)
		}
		for _, want := range []string{"records=1000 for=1s", "records=1500 for=2s", "records=2000 scopes=1 took=3.6s"} {
			if !strings.Contains(a.log.String(), want) {
				t.Errorf("the log lacks %q:\n%s", want, a.log)
			}
		}
		if took := a.metric("load_seconds"); took != 3.6 {
			t.Errorf("the metric says %v s", took)
		}
	})
}

func TestWritesDuringTheLoadAreNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		for n := range 50 {
			db.write("demo", fmt.Sprintf("k%02d=1", n))
		}
		n := 0
		db.between = func() { // rows of pages that were read, rows of pages to come, new rows and scopes
			n++
			db.write("demo", fmt.Sprintf("k%02d=2", n), fmt.Sprintf("k%02d=2", 49-n), fmt.Sprintf("a%d=1", n))
			db.write(fmt.Sprintf("tenant%d", n), "a=1")
		}
		a := start(t, "a", db, nil, nil)
		defer a.end()
		pass(10 * time.Millisecond)
		if n != 5 {
			t.Fatalf("%d pages", n)
		}
		a.mustEqualDatabase()
	})
}

func TestTwoInstancesThatWriteOneScopeEndEqual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, net := newDatabase(), newNetwork()
		a, b := start(t, "a", db, net, nil), start(t, "b", db, net, nil)
		defer a.end()
		defer b.end()
		pass(time.Millisecond)
		written := make(chan struct{})
		for _, i := range []*instance{a, b} {
			go func() {
				random := rand.New(rand.NewPCG(7, uint64(len(i.o.Instance))))
				for n := range 500 {
					i.write("demo", fmt.Sprintf("k%d=%s%d", random.IntN(20), i.o.Instance, n))
					time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
					net.set(func(net *network) { net.lost = n%7 == 0 })
				}
				written <- struct{}{}
			}()
		}
		<-written
		<-written
		pass(2300 * time.Millisecond)
		a.mustEqualDatabase()
		b.mustEqualDatabase()
		for _, i := range []*instance{a, b} {
			// A row that was replaced before it was read is not there to be read.
			if n := i.metric("lag_seconds"); n > 1000 || n < 500 {
				t.Errorf("%s observed the lag of %v rows of 1000", i.o.Instance, n)
			}
		}
	})
}

func TestOnlyWhatNobodyToldInTimeIsHealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		a := start(t, "a", db, nil, rarely)
		defer a.end()
		pass(time.Millisecond)
		mustHeal := func(want float64, what string) {
			t.Helper()
			pass(time.Millisecond)
			a.mustEqualDatabase()
			if got := a.metric("healed_total"); got != want {
				t.Errorf("%s: %v rows are counted as healed, want %v", what, got, want)
			}
		}
		db.write("demo", "a=1")
		a.heard.spill() // has it poll
		mustHeal(0, "a poll finds a row before its broadcast can have come")
		change := db.write("demo", "a=2")
		pass(time.Second)
		a.Wrote("demo", change)
		mustHeal(0, "a row is told of late")
		db.write("demo", "a=3", "b=1")
		pass(time.Second)
		a.heard.spill()
		mustHeal(2, "a poll finds rows that nobody told of")
	})
}

func TestManyChangesComeInPagesAndHoldNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		a := start(t, "a", db, nil, rarely)
		defer a.end()
		pass(time.Millisecond)
		var last int64
		for n := range 3*pageRows + 1 {
			last = db.write("demo", fmt.Sprintf("k%d=1", n))
		}
		a.Wrote("demo", last)
		pass(time.Millisecond)
		a.mustEqualDatabase()
		if n := a.metric("lag_seconds"); n != 3*pageRows+1 {
			t.Errorf("the lag of %v rows was observed", n)
		}
	})
}

// Rows that are large come in pages of few.
func TestAShortPageIsTheLastOnlyIfTheSourceSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		a := start(t, "a", db, nil, nil)
		defer a.end()
		pass(time.Second)
		db.mu.Lock()
		db.most = 3
		db.mu.Unlock()
		for n := range 20 {
			db.write("demo", fmt.Sprint(n, "=large"))
		}
		pass(2300 * time.Millisecond)
		a.mustEqualDatabase()
		if a.Since() != 0 || db.reads != 7 {
			t.Errorf("since %v, after %d reads; want 7", a.Since(), db.reads)
		}
	})
}

func TestMoreWritesThanAreNotedLeadToAPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, net := newDatabase(), newNetwork()
		a, b := start(t, "a", db, net, rarely), start(t, "b", db, net, rarely)
		defer a.end()
		defer b.end()
		pass(time.Millisecond)
		a.heard.max, a.told.max = 2, 2
		for n := range 50 {
			a.write(fmt.Sprintf("tenant%02d", n), "a=1")
		}
		pass(100 * time.Millisecond)
		a.mustEqualDatabase()
		b.mustEqualDatabase()
	})
}

func TestAScopeThatNobodyHasIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		db.write("demo", "a=1")
		a := start(t, "a", db, nil, nil)
		defer a.end()
		pass(time.Millisecond)
		reads := db.reads
		a.Wrote("nobody", 7)
		a.Wrote("demo", 1<<40)
		a.Wrote("demo", 0)
		a.Wrote("demo", -1)
		pass(time.Minute)
		if n := db.reads - reads; n != 2 {
			t.Errorf("changes were read %d times, want once for each that was told", n)
		}
		if back := a.metric("polls_total", "back"); back != 0 || a.Since() != 0 {
			t.Errorf("it is taken for true: %v polls found that the database went back, since %v", back, a.Since())
		}
		db.write("demo", "a=2")
		a.Wrote("demo", 2)
		pass(time.Millisecond)
		a.mustEqualDatabase()
	})
}

func TestTheLastWritesAreToldBeforeTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, net := newDatabase(), newNetwork()
		a, b := start(t, "a", db, net, rarely), start(t, "b", db, net, rarely)
		defer b.end()
		pass(time.Millisecond)
		a.write("demo", "a=1")
		pass(time.Millisecond)
		a.write("demo", "a=2") // within the pause between two messages
		a.end()
		pass(time.Millisecond)
		b.mustEqualDatabase()
		if len(net.hearers) != 1 {
			t.Errorf("%d listen, want b alone", len(net.hearers))
		}
	})
}

func TestRunWorksOnceAndEndsInAnyState(t *testing.T) {
	for name, prepare := range map[string]func(*database){
		"following":                   func(*database) {},
		"while the database is away":  func(d *database) { d.away = true },
		"while a load is under way":   func(d *database) { d.write("demo", "a=1"); d.between = func() { time.Sleep(time.Second) } },
		"while changes are read":      func(d *database) { d.hang["demo"] = true },
		"while nobody can be told it": func(d *database) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				db, net := newDatabase(), newNetwork()
				prepare(db)
				net.hanging, net.deaf = strings.Contains(name, "told"), strings.Contains(name, "told")
				a := start(t, "a", db, net, nil)
				pass(100 * time.Millisecond)
				a.write("demo", "a=1")
				a.end() // the bubble waits for every goroutine
				if err := a.Run(t.Context()); err == nil {
					t.Error("it runs twice")
				}
			})
		})
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	good := Options[row]{Name: "test", Source: newDatabase(), Load: (&memory{}).load, Apply: func([]row) {}, Change: func(*row) int64 { return 0 }}
	for _, tt := range []struct {
		want   string
		change func(*Options[row])
	}{
		{"Name is required", func(o *Options[row]) { o.Name = "" }},
		{"Source is required", func(o *Options[row]) { o.Source = nil }},
		{"Load is required", func(o *Options[row]) { o.Load = nil }},
		{"Apply is required", func(o *Options[row]) { o.Apply = nil }},
		{"Change is required", func(o *Options[row]) { o.Change = nil }},
		{"Instance is required with Peers", func(o *Options[row]) { o.Peers = newNetwork() }},
		{"Instance has 201 bytes", func(o *Options[row]) { o.Instance = strings.Repeat("x", 201) }},
		{"no time may be negative", func(o *Options[row]) { o.PollEvery = -1 }},
		{"no time may be negative", func(o *Options[row]) { o.LoadTimeout = -1 }},
		{"no time may be negative", func(o *Options[row]) { o.CallTimeout = -1 }},
	} {
		o := good
		tt.change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	f, err := New(good)
	if err != nil {
		t.Fatal(err)
	}
	if f.o.PollEvery != 2*time.Second || f.o.LoadTimeout != 5*time.Minute || f.o.CallTimeout != 5*time.Second {
		t.Errorf("defaults: %v, %v, %v", f.o.PollEvery, f.o.LoadTimeout, f.o.CallTimeout)
	}
}
