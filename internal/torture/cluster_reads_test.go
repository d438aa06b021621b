package torture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/blackbox"
)

const (
	// healBound is how soon the poll has found what no broadcast told of.
	healBound = 4 * time.Second
	// tellBound is how soon a broadcast is there, on a machine that does much else.
	tellBound = 2 * time.Second
	// staleBound is how soon answers say that they may be out of date.
	staleBound = 15 * time.Second
	// maxReadWait bounds one read, whatever is away.
	maxReadWait = 2 * time.Second
)

func TestReadsStayRightWhateverServiceOfAClusterFails(t *testing.T) {
	if setting(t, "TORTURE_KILLS", 5) == 0 {
		t.Skip("TORTURE_KILLS=0")
	}
	c := newCluster(t.Context(), t).withNATS(t)
	c.redisApart = true
	c.start(t.Context(), t, instanceCount)
	s := newShelf(t.Context(), t, c)
	for _, x := range []struct {
		name   string
		test   func(ctx context.Context, t *testing.T, s *shelf)
		errors bool // an instance has reason to log errors
	}{
		{name: "two instances change one product at once", test: changeAtOnce},
		{name: "broadcasts are lost", test: loseBroadcasts},
		{name: "Redis is flushed, silent, cut off from one, gone and back", test: readOrdersWithoutRedis},
		{name: "PostgreSQL is gone for a while", test: readWithoutPostgres, errors: true},
	} {
		t.Run(x.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), stageTimeout)
			defer cancel()
			x.test(ctx, t, s)
			c.checkLogs(t, x.errors)
		})
	}
	c.stopAll(t.Context(), t)
}

// shelf reads and changes what the instances show from memory.
type shelf struct {
	c     *cluster
	place string // path of one
}

// newShelf imports two places.
func newShelf(ctx context.Context, t *testing.T, c *cluster) *shelf {
	t.Helper()
	file := c.in("places.ndjson")
	lines := `{"id":276,"kind":"country","code":"DE","names":{"en":"Germany","de":"Deutschland"}}
{"id":2867714,"kind":"city","country":"DE","population":1260391,"lat":48.13743,"lon":11.57549,"names":{"en":"Munich","de":"München"}}
`
	if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := blackbox.Run(ctx, c.binary, "import", "places", file, "--data", c.instances[0].o.Data); err != nil {
		t.Fatal(err)
	}
	s := &shelf{c: c, place: "/places/2867714?lang=de"}
	for _, i := range c.instances {
		c.eventually(ctx, t, healBound, i.name+" shows a place that another one imported", func(ctx context.Context) error {
			if r := s.get(ctx, i, s.place); r.status != http.StatusOK || !strings.Contains(string(r.body), "München") {
				return errors.New(r.String())
			}
			return nil
		})
	}
	return s
}

func (s *shelf) get(ctx context.Context, i *instance, path string) reply {
	return s.c.probes.ask(ctx, http.MethodGet, i.server.URL+path, "", "")
}

// shown is a product or an order as far as it is looked at.
type shown struct {
	Version int64
	Status  string
	etag    string
	stale   bool
	body    string
}

// see reads what must be there.
func (s *shelf) see(ctx context.Context, i *instance, path string) (v shown, err error) {
	r := s.get(ctx, i, path)
	if r.status != http.StatusOK {
		return v, fmt.Errorf("%s: GET %s: %s", i.name, path, r)
	}
	if r.took > maxReadWait {
		return v, fmt.Errorf("%s: GET %s took %s", i.name, path, r.took)
	}
	v.etag, v.body = r.header.Get("ETag"), string(r.body)
	v.stale = strings.Contains(r.header.Get("Cache-Status"), "detail=stale")
	return v, json.Unmarshal(r.body, &v)
}

// put sets the price of a product and returns its version.
func (s *shelf) put(ctx context.Context, i *instance, sku string, price int) (int64, error) {
	r := s.c.probes.ask(ctx, http.MethodPut, i.server.URL+"/products/"+sku, "", fmt.Sprintf(`{"names":{"en":"Torture"},"price":{"amount":%d,"currency":"EUR"}}`, price))
	var p shown
	if r.status/100 != 2 || json.Unmarshal(r.body, &p) != nil || p.Version == 0 {
		return 0, fmt.Errorf("%s: PUT /products/%s: %s", i.name, sku, r)
	}
	return p.Version, nil
}

// visible waits until all instances show the same bytes of a product, of a version or
// a later one.
func (s *shelf) visible(ctx context.Context, t *testing.T, within time.Duration, when, sku string, version int64) {
	t.Helper()
	began := time.Now()
	s.c.eventually(ctx, t, within, fmt.Sprintf("%s all instances show version %d of %s", when, version, sku), func(ctx context.Context) error {
		var first shown
		for n, i := range s.c.instances {
			v, err := s.see(ctx, i, "/products/"+sku)
			switch {
			case err != nil:
				return err
			case v.Version < version:
				return fmt.Errorf("%s shows version %d", i.name, v.Version)
			case n == 0:
				first = v
			case v.etag != first.etag || v.body != first.body:
				return fmt.Errorf("%s shows %s %s, and %s shows %s %s", s.c.instances[0].name, first.etag, first.body, i.name, v.etag, v.body)
			}
		}
		return nil
	})
	t.Logf("%s all instances show a change after %.2f s, of %s", when, time.Since(began).Seconds(), within)
}

// changeAtOnce expects that instances that change one product at the same time end
// with the same.
func changeAtOnce(ctx context.Context, t *testing.T, s *shelf) {
	const rounds, sku = 40, "torture-same"
	var last int64
	for round := range rounds {
		versions, errs := make([]int64, 2), make([]error, 2)
		var both sync.WaitGroup
		for n, i := range s.c.instances[:2] {
			both.Go(func() {
				// Each price is new, so that each change counts.
				if versions[n], errs[n] = s.put(ctx, i, sku, 1000+2*round+n); errs[n] != nil {
					return
				}
				if v, err := s.see(ctx, i, "/products/"+sku); err != nil || v.Version < versions[n] {
					errs[n] = fmt.Errorf("%s has answered version %d and shows version %d: %v", i.name, versions[n], v.Version, err)
				}
			})
		}
		both.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if versions[0] == versions[1] {
			t.Fatalf("two changes were both answered with version %d", versions[0])
		}
		last = max(last, versions[0], versions[1])
	}
	if last != 2*rounds {
		t.Errorf("%d changes ended at version %d", 2*rounds, last)
	}
	s.visible(ctx, t, tellBound, "after changes at once", sku, last)
}

// loseBroadcasts expects that the poll finds what no broadcast told of.
func loseBroadcasts(ctx context.Context, t *testing.T, s *shelf) {
	c := s.c
	sku := func(n int) string { return fmt.Sprint("torture-lost-", n) }
	// change lets each instance change a product of its own, which all must show.
	change := func(when string, within time.Duration, price int) {
		t.Helper()
		for n, i := range c.instances {
			v, err := s.put(ctx, i, sku(n), price)
			if err != nil {
				t.Fatal(err)
			}
			defer s.visible(ctx, t, within, when, sku(n), v)
		}
	}
	healed := func() (n float64) {
		for _, i := range c.instances {
			v, err := i.metric(ctx, "millrace_index_healed_total", "index=catalog")
			if err != nil {
				t.Fatal(err)
			}
			n += v
		}
		return n
	}
	change("with NATS", tellBound, 100)
	before := healed()
	if err := c.nats.Pause(); err != nil {
		t.Fatal(err)
	}
	change("while NATS is silent", healBound, 200)
	if err := errors.Join(c.nats.Resume(), c.nats.Kill()); err != nil {
		t.Fatal(err)
	}
	change("while NATS is gone", healBound, 300)
	// A deletion leaves no record behind that the poll could find by itself.
	writer, others := c.instances[0], c.instances[1:]
	if r := c.probes.ask(ctx, http.MethodDelete, writer.server.URL+"/products/"+sku(0), "", ""); r.status != http.StatusNoContent {
		t.Fatalf("DELETE: %s", r)
	}
	for _, i := range others {
		c.eventually(ctx, t, healBound, i.name+" shows no product that was deleted on another one", func(ctx context.Context) error {
			if r := s.get(ctx, i, "/products/"+sku(0)); r.status != http.StatusNotFound {
				return errors.New(r.String())
			}
			return nil
		})
	}
	change("made again while NATS is gone,", healBound, 400)
	if now := healed(); now <= before {
		t.Errorf("no change counts as found by the poll alone: %v, %v before", now, before)
	}
	if err := c.nats.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	c.eachMetric(ctx, t, 40*time.Second, "is connected to the broker", func(v float64) bool { return v == 1 }, "millrace_bus_connected")
	change("with NATS back", healBound, 500)
}
