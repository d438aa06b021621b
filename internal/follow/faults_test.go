package follow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheDatabaseIsAwayForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		db.write("demo", "a=1")
		a := start(t, "a", db, nil, nil)
		defer a.end()
		pass(time.Minute)
		if since := a.Since(); since != 0 {
			t.Fatalf("with a database the index is %v old", since)
		}
		db.setAway(true)
		pass(2 * time.Second)
		if since := a.Since(); since != 0 {
			t.Errorf("after 2 s, in which one poll may fail, the index is %v old", since)
		}
		pass(58 * time.Second)
		since := a.Since()
		if since < 57*time.Second || since > 63*time.Second {
			t.Errorf("after a minute without a database the index is %v old", since)
		}
		if stale := a.metric("stale_seconds"); stale != since.Seconds() {
			t.Errorf("the metric says %v s, want %v", stale, since)
		}
		if a.Ready() != nil || !a.Loaded() || a.index.value("demo/a") != "1" {
			t.Errorf("what is known is not read any more: %v", a.Ready())
		}
		db.write("demo", "a=2") // by another, while this one cannot read
		db.setAway(false)
		pass(2300 * time.Millisecond)
		a.mustEqualDatabase()
		if since := a.Since(); since != 0 {
			t.Errorf("with the database back the index is %v old", since)
		}
		if failed := a.metric("polls_total", "failed"); failed < 25 || failed > 35 {
			t.Errorf("%v polls failed", failed)
		}
		if n := strings.Count(a.log.String(), "level=WARN"); n != 1 {
			t.Errorf("the log warns %d times:\n%s", n, a.log)
		}
		if !strings.Contains(a.log.String(), "can be asked for changes again") {
			t.Errorf("the log does not say that it is over:\n%s", a.log)
		}
	})
}

func TestChangesThatCannotBeReadMakeTheIndexStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		a := start(t, "a", db, nil, nil)
		defer a.end()
		pass(time.Second)
		db.mu.Lock()
		db.hang["slow"] = true
		db.mu.Unlock()
		db.write("slow", "a=1")
		db.write("demo", "a=1")
		pass(2300 * time.Millisecond)
		if got := a.index.value("demo/a"); got != "1" {
			t.Errorf("a scope that hangs holds up another: it has %q", got)
		}
		pass(30 * time.Second)
		if since := a.Since(); since < 25*time.Second {
			t.Errorf("the index lacks a change for half a minute and says %v", since)
		}
		db.mu.Lock()
		db.hang["slow"] = false
		db.mu.Unlock()
		pass(40 * time.Second) // the read that hangs is given up before
		a.mustEqualDatabase()
		if since := a.Since(); since != 0 {
			t.Errorf("it lacks nothing any more and says %v", since)
		}
		if n := strings.Count(a.log.String(), "changes could not be read"); n != 1 {
			t.Errorf("the log tells %d times of it:\n%s", n, a.log)
		}
	})
}

func TestALoadThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		for n := range 25 {
			db.write("demo", fmt.Sprintf("k%02d=1", n))
		}
		db.setAway(true)
		a := start(t, "a", db, nil, nil)
		defer a.end()
		pass(time.Minute)
		if a.Loaded() || a.Ready() == nil || a.Since() != 0 || a.metric("loaded") != 0 {
			t.Errorf("without a database: loaded %v, ready %v, since %v", a.Loaded(), a.Ready(), a.Since())
		}
		if got := a.Ready().Error(); !strings.Contains(got, "tried again") || strings.Contains(got, "away") {
			t.Errorf("ready says %q; want that it is tried again, without the database's words", got)
		}
		// It comes back, and goes away in the middle of the load.
		db.mu.Lock()
		fail := true
		db.away, db.between = false, func() {
			if fail {
				fail = false
				db.setAway(true)
				time.AfterFunc(time.Minute, func() { db.setAway(false) })
			}
		}
		db.mu.Unlock()
		pass(30 * time.Second)
		if a.Loaded() || len(a.index.all()) != 0 {
			t.Errorf("a load that was cut off counts: %d records", len(a.index.all()))
		}
		pass(time.Minute)
		if !a.Loaded() || a.Ready() != nil || a.metric("loaded") != 1 {
			t.Errorf("loaded %v, ready %v", a.Loaded(), a.Ready())
		}
		a.mustEqualDatabase()
		if !strings.Contains(a.log.String(), `msg="index loaded" index=test records=25 scopes=1`) {
			t.Errorf("the log does not say what was loaded:\n%s", a.log)
		}
	})
}

func TestARowThatMakesTheIndexPanicDoesNotEndAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		a := start(t, "a", db, nil, nil)
		defer a.end()
		pass(time.Second)
		a.index.setPoison("bad")
		db.write("demo", "a=1", "b=bad", "c=1")
		db.write("demo", "d=1")
		pass(10 * time.Second)
		if a.index.value("demo/a") != "1" || a.index.value("demo/c") != "1" || a.index.value("demo/d") != "1" {
			t.Errorf("rows beside the one that panics are missing: %v", a.index.all())
		}
		if since, rows := a.Since(), a.metric("failed_rows"); since < 9*time.Second || rows != 1 {
			t.Errorf("the index lacks a row; it says %v, and %v rows", since, rows)
		}
		if log := a.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "poisoned by bad") || !strings.Contains(log, "goroutine") {
			t.Errorf("the log does not tell of it with a stack:\n%s", log)
		}
		a.index.setPoison("")
		pass(5 * time.Second)
		a.mustEqualDatabase()
		if since, rows := a.Since(), a.metric("failed_rows"); since != 0 || rows != 0 {
			t.Errorf("it lacks nothing any more; it says %v, and %v rows", since, rows)
		}
	})
}

func TestRowsThatPanicAreForgottenOnlyWithALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		a := start(t, "a", db, nil, nil)
		defer a.end()
		pass(time.Second)
		a.index.setPoison("bad")
		var values []string
		for n := range maxFailedRows + 1 {
			values = append(values, fmt.Sprintf("k%d=bad", n))
		}
		db.write("demo", values...)
		pass(time.Minute)
		if rows := a.metric("failed_rows"); rows != maxFailedRows || a.Since() < 50*time.Second {
			t.Errorf("%v rows are kept, since %v", rows, a.Since())
		}
		a.index.setPoison("")
		for range 200 {
			pass(100 * time.Millisecond)
			if lacks := len(db.all()) - len(a.index.all()); lacks > 0 && a.Since() == 0 {
				t.Fatalf("the index lacks %d rows and says that it is complete", lacks)
			}
		}
		a.mustEqualDatabase()
		if a.Since() != 0 {
			t.Errorf("since %v", a.Since())
		}
	})
}

func TestAPanicDuringTheLoadIsAFailedLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		for n := range 100 {
			db.write("demo", fmt.Sprintf("k%02d=1", n))
		}
		db.write("demo", "x=bad")
		a := start(t, "a", db, nil, nil)
		a.index.setPoison("bad") // nothing runs before this test waits
		defer a.end()
		pass(time.Minute)
		if a.Loaded() || a.Ready() == nil || !strings.Contains(a.log.String(), "poisoned by bad") {
			t.Errorf("ready %v, log:\n%s", a.Ready(), a.log)
		}
		a.index.setPoison("")
		pass(time.Minute)
		a.mustEqualDatabase()
	})
}

func TestARowThatCannotBeReadIsToldOfUntilItIsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		db.write("demo", "a=1", "b=unreadable")
		db.write("other", "a=unreadable")
		a := start(t, "a", db, nil, nil)
		defer a.end()
		want := func(rows float64, named string) {
			t.Helper()
			a.mustEqualDatabase()
			if got := a.metric("failed_rows"); got != rows || a.Since() != 0 || strings.Count(a.log.String(), "put them again") != strings.Count(a.log.String(), named) || !strings.Contains(a.log.String(), named) {
				t.Errorf("%v rows failed, since %v, want %v, none, and to be told of %s:\n%s", got, a.Since(), rows, named, a.log)
			}
		}
		pass(10 * time.Second)
		want(2, `rows=2 first="[demo/b other/a]"`)
		*a.log = journal{}
		db.write("demo", "c=unreadable", "d=1")
		pass(10 * time.Second)
		want(3, `rows=1 first=[demo/c]`)
		db.write("demo", "b=1")
		db.write("demo", "c=1")
		pass(10 * time.Second)
		if got := a.metric("failed_rows"); got != 1 || strings.Count(a.log.String(), "rows that could not be read can be") == 0 {
			t.Errorf("%v rows failed, want the one that was not written again:\n%s", got, a.log)
		}
		db.restore(newDatabase()) // without it
		pass(time.Minute)
		if got := a.metric("failed_rows"); got != 0 {
			t.Errorf("%v rows of a database that is no more failed", got)
		}
	})
}

func TestADatabaseThatWentBackIsLoadedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, net := newDatabase(), newNetwork()
		db.write("demo", "a=1", "b=1")
		backup := db.snapshot()
		a := start(t, "a", db, net, nil)
		b := start(t, "b", db, net, nil)
		defer a.end()
		defer b.end()
		pass(time.Second)
		a.write("demo", "a=2", "c=1")
		a.write("demo", "a=3")
		a.write("late", "x=1")
		pass(time.Minute)
		b.mustEqualDatabase()
		db.restore(backup)
		pass(2300 * time.Millisecond)
		for _, i := range []*instance{a, b} {
			i.mustEqualDatabase()
			if i.Since() != 0 || i.metric("polls_total", "back") != 1 || !strings.Contains(i.log.String(), "not the one it was") {
				t.Errorf("since %v, %v polls found it, log:\n%s", i.Since(), i.metric("polls_total", "back"), i.log)
			}
		}
		// Numbers that were there before are used again.
		a.write("demo", "a=4")
		pass(10 * time.Millisecond)
		a.mustEqualDatabase()
		b.mustEqualDatabase()
	})
}

// As many writes as were lost come before anybody looks, so that no number is lower
// than it was.
func TestAFailoverIsNoticedThoughAsMuchWasWrittenAsWasLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, net := newDatabase(), newNetwork()
		db.epoch = "1"
		db.write("demo", "a=1", "b=1")
		standby := db.snapshot()
		standby.epoch = "2"
		a := start(t, "a", db, net, nil)
		b := start(t, "b", db, net, nil)
		defer a.end()
		defer b.end()
		pass(5 * time.Second)
		a.write("demo", "a=lost", "b=lost")
		pass(5 * time.Second)
		db.restore(standby)
		a.write("demo", "a=kept")
		a.write("demo", "c=kept")
		pass(2300 * time.Millisecond)
		for _, i := range []*instance{a, b} {
			i.mustEqualDatabase()
			if back := i.metric("polls_total", "back"); back != 1 || i.Since() != 0 || !strings.Contains(i.log.String(), "was=1 is=2") {
				t.Errorf("%v polls found it, since %v, log:\n%s", back, i.Since(), i.log)
			}
		}
		pass(time.Minute)
		if back := a.metric("polls_total", "back"); back != 1 {
			t.Errorf("%v polls found another database, want the one", back)
		}
	})
}

func TestAnIndexThatCannotBeLoadedAgainGoesOnStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		db.write("demo", "a=1")
		backup := db.snapshot()
		a := start(t, "a", db, nil, nil)
		defer a.end()
		db.write("demo", "a=2")
		pass(time.Minute)
		a.index.setPoison("1")
		db.restore(backup)
		pass(time.Minute)
		if a.index.value("demo/a") != "2" || !a.Loaded() || a.Since() < 50*time.Second {
			t.Errorf("it has %v, since %v", a.index.all(), a.Since())
		}
		if n := strings.Count(a.log.String(), "loading the index failed"); n < 2 || n > 7 {
			t.Errorf("%d loads in a minute:\n%s", n, a.log)
		}
		a.index.setPoison("")
		pass(15 * time.Second)
		a.mustEqualDatabase()
		if a.Since() != 0 {
			t.Errorf("since %v", a.Since())
		}
	})
}

func TestABrokerThatIsAwayIsListenedToLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, net := newDatabase(), newNetwork()
		net.deaf = true
		a, b := start(t, "a", db, net, rarely), start(t, "b", db, net, rarely)
		defer a.end()
		defer b.end()
		pass(time.Minute)
		a.write("demo", "a=1")
		pass(time.Second)
		if got := b.index.value("demo/a"); got != "" {
			t.Fatalf("b has %q", got)
		}
		net.set(func(n *network) { n.deaf = false })
		pass(15 * time.Second)
		b.mustEqualDatabase()
		if n := strings.Count(b.log.String(), "level=WARN"); n != 1 || !strings.Contains(b.log.String(), "are heard again") {
			t.Errorf("log:\n%s", b.log)
		}
		a.write("demo", "a=2")
		pass(10 * time.Millisecond)
		b.mustEqualDatabase()
	})
}

func TestABrokerThatFailsOrHangsHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, net := newDatabase(), newNetwork()
		a, b := start(t, "a", db, net, nil), start(t, "b", db, net, nil)
		defer a.end()
		defer b.end()
		for name, fault := range map[string]func(bool){
			"fails": func(on bool) { net.set(func(n *network) { n.broken = on }) },
			"hangs": func(on bool) { net.set(func(n *network) { n.hanging = on }) },
		} {
			pass(10 * time.Second)
			fault(true)
			began := time.Now()
			for n := range 100 {
				a.write("demo", fmt.Sprintf("%s=%d", name, n))
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("%s: writing waited for %v", name, took)
			}
			pass(2300 * time.Millisecond)
			b.mustEqualDatabase()
			fault(false)
		}
		pass(10 * time.Second)
		if failed := a.metric("broadcasts_total", "failed"); failed < 2 {
			t.Errorf("%v messages failed", failed)
		}
		a.write("demo", "last=1")
		pass(10 * time.Millisecond)
		b.mustEqualDatabase()
	})
}

func TestWhatIsBeingSentAtTheEndIsToldAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, net := newDatabase(), newNetwork()
		a := start(t, "a", db, net, rarely)
		b := start(t, "b", db, net, rarely)
		defer b.end()
		pass(time.Second)
		net.set(func(n *network) { n.hanging = true })
		for scope := range 2 * messageScopes {
			a.write(fmt.Sprint(scope), "a=1")
		}
		pass(100 * time.Millisecond)
		a.stop()
		net.set(func(n *network) { n.hanging = false })
		if err := <-a.done; err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		b.mustEqualDatabase()
	})
}

func TestASourceThatRepeatsItselfIsNotAskedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		a := start(t, "a", db, nil, func(o *Options[row]) { o.Change = func(*row) int64 { return 0 } })
		defer a.end()
		pass(time.Second)
		db.write("demo", "a=1")
		pass(time.Minute)
		if db.reads > 40 || !strings.Contains(a.log.String(), "not newer than what was asked for") {
			t.Errorf("%d reads, log:\n%s", db.reads, a.log)
		}
	})
}

func TestALoadThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase()
		db.write("demo", "a=1")
		first := true
		a := start(t, "a", db, nil, func(o *Options[row]) { o.Source = hangingLoad{db, &first} })
		defer a.end()
		pass(5 * time.Minute)
		if a.Loaded() {
			t.Fatal("a load that hangs counts")
		}
		pass(time.Second)
		a.mustEqualDatabase()
		if !strings.Contains(a.log.String(), context.DeadlineExceeded.Error()) {
			t.Errorf("log:\n%s", a.log)
		}
	})
}

// hangingLoad is a database whose first load hangs.
type hangingLoad struct {
	*database
	first *bool
}

func (h hangingLoad) Load(ctx context.Context, each func([]row) error) error {
	if *h.first {
		*h.first = false
		<-ctx.Done()
		return errors.Join(errAway, ctx.Err())
	}
	return h.database.Load(ctx, each)
}
