package httpapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestReadinessSaysEachPartsState(t *testing.T) {
	var full atomic.Bool
	f := newFixture(t, func(o *Options) {
		o.Checks = []Check{
			{Name: "log", Jobs: []string{"events"}, Probe: func(context.Context) error {
				if full.Load() {
					return errors.New("the log is at 93 % of its bound")
				}
				return nil
			}},
			{Name: "stock", Jobs: []string{"stock"}, Probe: func(context.Context) error { return nil }},
			{Name: "disk", Probe: func(context.Context) error { return nil }},
		}
	})
	const healthy = `{"status":"ready","checks":[{"name":"log","status":"ok","jobs":["events"]},{"name":"stock","status":"ok","jobs":["stock"]},{"name":"disk","status":"ok"}]}` + "\n"
	if w := f.call("GET", "/readyz", "", "Authorization", ""); w.Code != 200 || w.Body.String() != healthy {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	full.Store(true)
	for target, status := range map[string]int{"/readyz": 503, "/readyz/events": 503, "/readyz/stock": 200} {
		w := f.call("GET", target, "")
		if w.Code != status {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
		if status == 503 && !strings.Contains(w.Body.String(), `"status":"failing","detail":"the log is at 93 % of its bound"`) {
			t.Errorf("%s: %s", target, w.Body)
		}
	}
	full.Store(false)
	if w := f.call("GET", "/readyz", ""); w.Code != 200 {
		t.Errorf("it does not recover: %d %s", w.Code, w.Body)
	}
	p := wantProblem(t, f.call("GET", "/readyz/orders", ""), 404, "not-found")
	if !strings.Contains(p.Detail, "events, stock") {
		t.Errorf("detail %q does not name the jobs", p.Detail)
	}
	f.server.BeginDrain()
	if w := f.call("GET", "/readyz/stock", ""); w.Code != 503 {
		t.Errorf("while draining: %d %s", w.Code, w.Body)
	}
	if w := f.call("GET", "/livez", "", "Authorization", ""); w.Code != 200 {
		t.Errorf("livez while draining: %d", w.Code)
	}
}

func TestAProbeThatHangsFailsInTimeAndRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var runs atomic.Int32
		f := newFixture(t, func(o *Options) {
			o.Checks = []Check{{Name: "store", Probe: func(context.Context) error {
				runs.Add(1)
				<-release // heeds no context
				return nil
			}}}
		})
		begin := time.Now()
		var wait sync.WaitGroup
		for range 5 {
			wait.Go(func() {
				if w := f.call("GET", "/readyz", ""); w.Code != 503 || !strings.Contains(w.Body.String(), "did not answer within 2s") {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			})
		}
		wait.Wait()
		if took := time.Since(begin); took != 2*time.Second || runs.Load() != 1 {
			t.Errorf("took %v with %d runs of the probe", took, runs.Load())
		}
		close(release)
		synctest.Wait()
		if w := f.call("GET", "/readyz", ""); w.Code != 200 || runs.Load() != 2 {
			t.Errorf("after it came back: %d %s, %d runs", w.Code, w.Body, runs.Load())
		}
	})
}

func TestAProbeThatPanicsFails(t *testing.T) {
	f := newFixture(t)
	if err := f.server.AddCheck(Check{Name: "odd", Probe: func(context.Context) error { panic("ouch") }}); err != nil {
		t.Fatal(err)
	}
	if w := f.call("GET", "/readyz", ""); w.Code != 503 || !strings.Contains(w.Body.String(), "ouch") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if err := f.server.AddCheck(Check{Name: "odd", Probe: func(context.Context) error { return nil }}); err == nil {
		t.Error("two checks may have one name")
	}
	if err := f.server.AddCheck(Check{Name: "nameless"}); err == nil {
		t.Error("a check without a probe is taken")
	}
}

func TestReadinessFailsBeforeTheListenerCloses(t *testing.T) {
	s := serve(t, func(o *Options) { o.DrainDelay, o.DrainTimeout = time.Second, 5*time.Second })
	conn, r := s.raw("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
	if resp, _ := s.answer(r); resp.StatusCode != 200 {
		t.Fatalf("status %d", resp.StatusCode)
	}
	s.cancel()
	for deadline := time.Now().Add(5 * time.Second); ; {
		if _, err := fmt.Fprint(conn, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, _ := s.answer(r)
		if resp.StatusCode == 503 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("readiness never failed")
		}
	}
	_, late := s.raw(postHead + "Content-Length: 14\r\n\r\n[{\"type\":\"a\"}]") // the listener is still there
	if resp, body := s.answer(late); resp.StatusCode != 202 {
		t.Errorf("status %d: %s", resp.StatusCode, body)
	}
}

func TestAnInstanceWithoutTheAPIServesItsHealthAlone(t *testing.T) {
	f := newFixture(t, func(o *Options) {
		o.ProbesOnly = true
		o.Checks = []Check{{Name: "store", Probe: func(context.Context) error { return nil }}}
	})
	for target, status := range map[string]int{"/livez": 200, "/readyz": 200, "/events": 404, "/orders": 404, "/openapi.json": 404} {
		if w := f.call("GET", target, ""); w.Code != status {
			t.Errorf("%s: %d %s, want %d", target, w.Code, w.Body, status)
		}
	}
}
