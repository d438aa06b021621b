package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/blackbox"
	"millrace/internal/load"
)

// startTimeout bounds how long a start after a kill may take. It is generous:
// the machine may be busy with other packages' tests.
const startTimeout = 60 * time.Second

// setting reads a whole number from the environment.
func setting(t *testing.T, name string, preset int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return preset
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		t.Fatalf("%s=%q: must be a whole number", name, text)
	}
	return n
}

// writer is one client that keeps sending until all it sent was acknowledged.
type writer struct {
	batch  int
	rate   int // events a second, 0 for a closed loop
	file   string
	report load.Report
	err    error
}

// stage is one data directory with the processes that run on it one after the
// other, always at the same addresses.
type stage struct {
	o       blackbox.Options
	token   string
	writers []*writer
	rng     *rand.Rand
	// probe waits until a server does what the test is about, serving is how long it
	// may then do so before it is killed.
	probe   func(*blackbox.Server, context.Context) error
	serving time.Duration
	// moments counts what the server was doing when it was killed.
	moments map[string]int
}

func newStage(ctx context.Context, t *testing.T, seed uint64) *stage {
	t.Helper()
	dir := t.TempDir()
	binary, err := blackbox.Build(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{rng: rand.New(rand.NewPCG(seed, 0)), moments: map[string]int{}, probe: (*blackbox.Server).Ready, serving: 400 * time.Millisecond}
	s.o = blackbox.Options{Binary: binary, Data: filepath.Join(dir, "data"), Output: filepath.Join(dir, "output"), Args: []string{"--log-level", "warn"}}
	for _, address := range []*string{&s.o.Listen, &s.o.Admin} {
		if *address, err = blackbox.FreeAddress(); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// addWriters adds the clients that send events.
func (s *stage) addWriters(ctx context.Context, t *testing.T) {
	t.Helper()
	var err error
	if s.token, err = blackbox.Token(ctx, s.o.Binary, s.o.Data); err != nil {
		t.Fatal(err)
	}
	// The first is a closed loop, so that something is always under way when the
	// process is killed.
	for _, w := range []writer{{batch: 1, rate: 0}, {batch: 17, rate: 1000}, {batch: 100, rate: 4000}} {
		w.file = filepath.Join(t.TempDir(), fmt.Sprintf("acked-%d", w.batch))
		s.writers = append(s.writers, &w)
	}
}

func (s *stage) start(t *testing.T) *blackbox.Server {
	t.Helper()
	server, err := blackbox.Start(s.o)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func (s *stage) ready(ctx context.Context, t *testing.T, server *blackbox.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.probe(server, ctx); err != nil {
		t.Fatal(err)
	}
}

// send runs a writer until ctx ends.
func (s *stage) send(ctx context.Context, w *writer) {
	w.report, w.err = load.Events(ctx, load.EventsOptions{
		URL: "http://" + s.o.Listen, Token: s.token, Rate: w.rate, Batch: w.batch, Connections: 4,
		Duration: 24 * time.Hour, Retry: true, RetryFor: time.Hour, RetryPause: 20 * time.Millisecond, Timeout: 10 * time.Second, AckedFile: w.file,
	})
}

// strike waits for a random moment of the server's life and kills it.
func (s *stage) strike(ctx context.Context, t *testing.T, server *blackbox.Server) {
	t.Helper()
	moment, most := "serving", s.serving
	switch n := s.rng.IntN(10); {
	case n < 2:
		moment, most = "starting", 30*time.Millisecond
	case n < 4:
		moment, most = "recovering", 250*time.Millisecond
	default:
		s.ready(ctx, t, server)
	}
	timer := time.NewTimer(time.Duration(s.rng.Int64N(int64(most))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-server.Done():
		t.Fatalf("the server ended by itself while %s; its last words:\n%s", moment, server.LastWords())
	}
	server.Kill()
	s.moments[moment]++
}

func TestNothingAcknowledgedIsLostOrDoubledHoweverOftenTheServerIsKilled(t *testing.T) {
	kills := setting(t, "TORTURE_KILLS", 5)
	if kills == 0 {
		t.Skip("TORTURE_KILLS=0")
	}
	seed := setting(t, "TORTURE_SEED", int(time.Now().UnixNano()&0xffffff))
	t.Logf("%d kills, TORTURE_SEED=%d", kills, seed)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute+time.Duration(kills)*10*time.Second)
	defer cancel()
	s := newStage(ctx, t, uint64(seed))
	s.addWriters(ctx, t)

	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	var writers sync.WaitGroup
	for _, w := range s.writers {
		writers.Go(func() { s.send(writing, w) })
	}
	// The writers must not outlive the test, whatever ends it.
	defer writers.Wait()
	defer stopWriting()

	server := s.killAgainAndAgain(ctx, t, kills)
	defer func() { server.Kill() }()
	var files []string
	for _, w := range s.writers {
		files = append(files, w.file)
	}
	letThrough(ctx, t, server, files)
	stopWriting()
	writers.Wait()
	s.checkWriters(t)
	t.Logf("killed while %v", s.moments)

	s.verify(ctx, t, server, "after the last kill")
	s.stop(ctx, t, server)
	s.checkFiles(ctx, t)
	server = s.start(t)
	s.ready(ctx, t, server)
	s.verify(ctx, t, server, "after a clean stop and start")
	s.stop(ctx, t, server)
}

// killAgainAndAgain starts servers and kills them, but for the last, which is
// ready when it returns.
func (s *stage) killAgainAndAgain(ctx context.Context, t *testing.T, kills int) *blackbox.Server {
	t.Helper()
	server := s.start(t)
	for range kills {
		s.strike(ctx, t, server)
		server = s.start(t)
	}
	s.ready(ctx, t, server)
	return server
}

// letThrough waits until every client got something acknowledged by this process,
// so that its file grew and the retries of the last kill had their chance.
func letThrough(ctx context.Context, t *testing.T, server *blackbox.Server, files []string) {
	t.Helper()
	sizes := func() (out []int64) {
		for _, file := range files {
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, info.Size())
		}
		return out
	}
	before := sizes()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-server.Done():
			t.Fatalf("the server ended by itself; its last words:\n%s", server.LastWords())
		case <-ctx.Done():
			t.Fatalf("the writers got nothing acknowledged any more; the server's last words:\n%s", server.LastWords())
		}
		all := true
		for i, size := range sizes() {
			all = all && size > before[i]
		}
		if all {
			return
		}
	}
}

func (s *stage) checkWriters(t *testing.T) {
	t.Helper()
	for _, w := range s.writers {
		e := w.report.Events
		t.Logf("batches of %d: %d sent, %d acked (%d again), %d unknown, %d retries", w.batch, e.Sent, e.Acked, e.Duplicates, e.Unknown, e.Retries)
		if !errors.Is(w.err, context.Canceled) {
			t.Errorf("the writer of batches of %d ended with: %v", w.batch, w.err)
		}
		if e.Rejected != 0 || e.Failed != 0 {
			t.Errorf("batches of %d: %d events rejected, %d failed: %q", w.batch, e.Rejected, e.Failed, w.report.Examples)
		}
		if e.Acked == 0 {
			t.Errorf("batches of %d: nothing was acknowledged, so nothing was tested", w.batch)
		}
	}
}

func (s *stage) verify(ctx context.Context, t *testing.T, server *blackbox.Server, when string) {
	t.Helper()
	var files []string
	for _, w := range s.writers {
		files = append(files, w.file)
	}
	var out strings.Builder
	r, err := load.VerifyEvents(ctx, load.VerifyOptions{URL: server.URL, Token: s.token, AckedFiles: files, Wait: time.Minute, Out: &out})
	if err != nil {
		t.Fatalf("%s: %v\n%s", when, err, &out)
	}
	if r.Found == 0 || r.Walked != r.Found+r.UnsureFound {
		t.Fatalf("%s: walked %d, found %d and %d of unknown outcome", when, r.Walked, r.Found, r.UnsureFound)
	}
	t.Logf("%s: %d acked, all there; %d of %d of unknown outcome are there too", when, r.Acked, r.UnsureFound, r.Unsure)
}

func (s *stage) stop(ctx context.Context, t *testing.T, server *blackbox.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := server.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}
