package fulfilment

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// holding makes a lane hold n attempts that are under way.
func (d *Dispatcher) holding(l *lane, n int) {
	l.inFlight += n
	d.places.add(l, n)
	d.claims.add(l, n)
}

// ends ends one of a lane's attempts, which began since its last pause.
func (d *Dispatcher) ends(l *lane, how verdict) { d.finish(result{l, how, l.pauses, d.o.Now()}) }

func TestALimitFallsByHalfAndRisesByOne(t *testing.T) {
	d := testDispatcher(t)
	l := d.lane(EndpointRef{"demo", "shop"})
	limits := []int{l.limit}
	l.limit = 32
	for _, how := range []verdict{didWell, didFail, noVerdict, didFail, didWell, didFail, didFail, didFail, didFail, didWell, wasOff} {
		d.holding(l, 1)
		d.ends(l, how)
		limits = append(limits, l.limit)
	}
	if diff := cmp.Diff([]int{1, 32, 16, 16, 8, 9, 4, 2, 1, 1, 2, 3}, limits); diff != "" {
		t.Errorf("limits differ (-want +got):\n%s", diff)
	}
	if l.inFlight != 0 || d.places.total != (usage{}) || d.claims.total != (usage{}) || len(d.places.tenants)+len(d.claims.tenants) != 0 {
		t.Errorf("%d; %+v and %+v are still counted", l.inFlight, d.places, d.claims)
	}
}

func TestALaneThatKeepsFailingPausesLongerEachTime(t *testing.T) {
	d := testDispatcher(t)
	now := noon
	d.o.Now = func() time.Time { return now }
	l := d.lane(EndpointRef{"demo", "shop"})
	var pauses []time.Duration
	fail := func(n int) {
		for range n {
			d.holding(l, 1)
			d.ends(l, didFail)
		}
		pauses = append(pauses, l.pausedUntil.Sub(now))
		if l.paused(now) {
			now = l.pausedUntil
		}
		if l.paused(now) {
			t.Fatalf("it pauses beyond its end")
		}
	}
	fail(3)
	for range 7 {
		fail(1)
	}
	want := []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 300 * time.Second, 300 * time.Second}
	if diff := cmp.Diff(want, pauses); diff != "" {
		t.Errorf("pauses differ (-want +got):\n%s", diff)
	}
	now = now.Add(-24 * time.Hour)
	if l.paused(now) {
		t.Error("a clock that was wrong makes a pause that does not end")
	}
	d.holding(l, 1)
	d.ends(l, didWell)
	pauses = nil
	fail(2)
	if l.paused(now) || l.pauses != 0 {
		t.Error("failures from before an attempt that went well still count")
	}
}

func TestAttemptsFromBeforeAPauseDoNotMakeItLonger(t *testing.T) {
	d := testDispatcher(t)
	l := d.lane(EndpointRef{"demo", "shop"})
	d.holding(l, 20)
	for range 20 {
		d.finish(result{l, didFail, 0, noon})
	}
	if got := l.pausedUntil.Sub(noon); got != firstPause {
		t.Errorf("twenty that failed together make a pause of %v, want %v", got, firstPause)
	}
}

func TestEveryBoundOfWhatLanesShareHolds(t *testing.T) {
	d := testDispatcher(t)
	d.o.Policy.InFlight = 64
	d.openLanes()
	take := func(tenants, lanes int, s standing) (taken int) {
		for i := range tenants {
			for j := range lanes {
				l := d.lane(EndpointRef{fmt.Sprint(s, "-", i), fmt.Sprint(j)})
				l.standing = s
				for d.places.room(l) > 0 {
					d.holding(l, 1)
					taken++
				}
			}
		}
		return taken
	}
	for _, c := range []struct {
		name           string
		tenants, lanes int
		standing       standing
		want           int
	}{
		{"one tenant's failing lanes have an eighth", 1, 50, failing, 8},
		{"all failing lanes have half", 50, 50, failing, 32 - 8},
		{"one tenant's untried lanes have an eighth", 1, 50, untried, 8},
		{"untried lanes have what is left of three quarters", 50, 50, untried, 8},
		{"one tenant that works has a quarter", 1, 1, working, 16},
		{"there are no more", 50, 1, working, 0},
	} {
		if got := take(c.tenants, c.lanes, c.standing); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	for _, n := range []int{1, 2, 3} {
		d.o.Policy.InFlight = n
		d.openLanes()
		if got := take(9, 9, failing); got != 1 {
			t.Errorf("of %d places failing lanes have %d, want 1", n, got)
		}
	}
}

func TestAStandingTakesAlongWhatALaneHolds(t *testing.T) {
	d := testDispatcher(t)
	l := d.lane(EndpointRef{"demo", "shop"})
	l.standing = working
	d.holding(l, 5)
	l.queue = make([]leased, 4)
	d.claims.add(l, 4)
	d.ends(l, didFail)
	if d.places.total != (usage{4, 4, 4}) || d.claims.total != (usage{8, 8, 8}) || d.claims.tenants["demo"] != (usage{8, 8, 8}) {
		t.Errorf("places %+v, claims %+v", d.places, d.claims)
	}
}

func TestTheRoomIsSharedAmongEndpoints(t *testing.T) {
	d := testDispatcher(t)
	d.o.Policy.InFlight, d.o.Policy.PerEndpoint = 10, 10
	d.openLanes() // room for 40
	var lanes []*lane
	for i := range 8 {
		l := d.lane(EndpointRef{fmt.Sprint("tenant-", i), "shop"})
		l.more, l.limit, l.standing = true, 10, working
		lanes = append(lanes, l)
	}
	shares := d.shares()
	sum := 0
	for _, s := range shares {
		sum += s.Limit
		if s.Limit != 5 {
			t.Errorf("%s gets %d, want 5", s.TenantID, s.Limit)
		}
	}
	if len(shares) != 8 || sum != 40 || d.claims.total.taken != 0 {
		t.Errorf("%d shares of %d; %+v", len(shares), sum, d.claims)
	}
	for i, n := range []int{9, 9, 9, 9, 1} {
		d.claims.add(lanes[i], n)
	}
	shares = d.shares()
	for _, s := range shares {
		if s.Limit != 1 || s.TenantID < "tenant-5" {
			t.Errorf("%s gets %d of the last 3, want those that have nothing to get one each", s.TenantID, s.Limit)
		}
	}
	if len(shares) != 3 {
		t.Errorf("%d endpoints share what is left, want 3", len(shares))
	}
	d.claims.add(lanes[5], 3)
	if shares = d.shares(); len(shares) != 0 || d.wantsMore() {
		t.Errorf("there is no room, and %d get some", len(shares))
	}
	d.claims.add(lanes[0], -9)
	for _, l := range lanes {
		l.pausedUntil = noon.Add(time.Second)
	}
	if shares = d.shares(); len(shares) != 0 || d.wantsMore() {
		t.Errorf("all pause, and %d get some", len(shares))
	}
}

func TestWhatIsRememberedOfIdleEndpointsIsBounded(t *testing.T) {
	d := testDispatcher(t)
	busy := d.lane(EndpointRef{"demo", "busy"})
	busy.inFlight = 1
	for i := range 3 * maxLanes {
		d.lane(EndpointRef{"demo", fmt.Sprint(i)})
	}
	if len(d.lanes) > maxLanes || d.lanes[busy.ref] != busy {
		t.Errorf("%d lanes, the busy one is %v", len(d.lanes), d.lanes[busy.ref])
	}
}
