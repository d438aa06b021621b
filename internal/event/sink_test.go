package event

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/deadletter"
	"millrace/internal/event/scan"
	"millrace/internal/wal"
	"millrace/internal/wal/vfs/faultfs"
)

// bench is a log, an ingester in front of it and a sink behind it.
type bench struct {
	t       *testing.T
	clock   *clock
	log     *wal.Log
	in      *Ingester
	store   *memStore
	letters *memLetters
	sink    *Sink
	ended   chan error
	stop    context.CancelFunc
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, clock: &clock{now: noon}, store: newMemStore(), letters: &memLetters{}}
	b.log = openLog(t, faultfs.New(1), b.clock.Now)
	b.in = newIngester(t, IngesterOptions{Log: b.log, Now: b.clock.Now, Limits: scan.Limits{MaxEvents: 1000}})
	b.newSink()
	return b
}

func (b *bench) newSink() {
	b.t.Helper()
	sink, err := NewSink(SinkOptions{Log: b.log, Store: b.store, DeadLetters: b.letters, Now: b.clock.Now,
		MaxBackoff: time.Millisecond, Forget: b.in.o.Window.Forget})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := sink.Locate(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.sink = sink
}

func (b *bench) run() {
	ctx, cancel := context.WithCancel(context.Background())
	b.ended, b.stop = make(chan error, 1), cancel
	go func() { b.ended <- b.sink.Run(ctx) }()
	b.t.Cleanup(cancel)
}

func (b *bench) halt() {
	b.t.Helper()
	b.stop()
	if err := <-b.ended; err != nil {
		b.t.Fatal(err)
	}
}

// ingest accepts one batch of events with these ids.
func (b *bench) ingest(ids ...string) {
	b.t.Helper()
	var body strings.Builder
	for i, id := range ids {
		fmt.Fprintf(&body, `%c{"id":%q,"type":"t","payload":{"id":%q}}`, "[,"[min(i, 1)], id, id)
	}
	body.WriteByte(']')
	if _, err := b.in.Ingest(b.t.Context(), Submission{TenantID: "demo", Body: []byte(body.String())}); err != nil {
		b.t.Fatal(err)
	}
}

// settle waits until the store has all of the log.
func (b *bench) settle() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	if err := b.sink.WaitCommitted(ctx, b.log.Next()); err != nil {
		b.t.Fatalf("the sink did not catch up: %v, last error %v", err, b.sink.Err())
	}
}

func (b *bench) wantIDs(want ...string) {
	b.t.Helper()
	if diff := cmp.Diff(want, b.store.ids()); diff != "" {
		b.t.Error(diff)
	}
}

func TestEventsReachTheStoreInOrderAndOnce(t *testing.T) {
	b := newBench(t)
	b.ingest("a", "b")
	b.run()
	b.ingest("c")
	b.settle()
	b.wantIDs("a", "b", "c")
	b.halt()
	b.newSink() // a restart with nothing new
	b.run()
	b.ingest("d")
	b.settle()
	b.wantIDs("a", "b", "c", "d")
	if b.log.Backlog() != 0 {
		t.Errorf("%d bytes are left in the backlog", b.log.Backlog())
	}
}

func TestALostCommitReplyStoresNothingTwice(t *testing.T) {
	b := newBench(t)
	b.store.loseNext = true
	b.ingest("a")
	b.run()
	b.settle()
	b.ingest("b")
	b.settle()
	b.wantIDs("a", "b")
}

func TestASinkThatFailsForLongCatchesUp(t *testing.T) {
	b := newBench(t)
	b.store.fail = slices.Repeat([]error{errAway}, 20)
	b.run()
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprint("e", i))
		b.ingest(want[i])
	}
	b.settle()
	b.wantIDs(want...)
	if err := b.sink.Err(); err != nil {
		t.Errorf("the sink still says %v", err)
	}
}

func TestABatchEndsWhereTheDayEnds(t *testing.T) {
	b := newBench(t)
	midnight := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	b.clock.Set(midnight.Add(-time.Second))
	b.ingest("a")
	b.ingest("b")
	b.clock.Set(midnight)
	b.ingest("c")
	b.clock.Set(midnight.Add(25 * time.Hour))
	b.ingest("d")
	b.run() // all of it waits already
	b.settle()
	b.wantIDs("a", "b", "c", "d")
	var days []string
	for _, batch := range b.store.batches {
		days = append(days, batch.Day.Format(time.DateOnly))
	}
	if diff := cmp.Diff([]string{"2026-11-22", "2026-11-23", "2026-11-24"}, days); diff != "" {
		t.Error(diff)
	}
}

func TestAClockThatJumpsBackLosesNothingAndMovesNoEventBack(t *testing.T) {
	b := newBench(t)
	b.ingest("a")
	b.clock.Set(noon.Add(-72 * time.Hour))
	b.ingest("b")
	b.run()
	b.settle()
	b.wantIDs("a", "b")
	if rows := b.store.rows; rows[1].ReceivedAt < rows[0].ReceivedAt {
		t.Errorf("received at %d, then at %d", rows[0].ReceivedAt, rows[1].ReceivedAt)
	}
}

func TestAnEventTheDatabaseRefusesBecomesADeadLetterAndTheOthersAreStored(t *testing.T) {
	b := newBench(t)
	b.store.refuses = func(r Row) bool { return strings.HasPrefix(r.ID, "bad") }
	b.ingest("a", "bad1", "b", "c", "bad2")
	b.ingest("bad3")
	b.ingest("d")
	b.run()
	b.settle()
	b.wantIDs("a", "b", "c", "d")
	var dead []string
	for _, l := range b.letters.all() {
		dead = append(dead, l.EventID)
		if want := fmt.Sprintf(`"payload":{"id":%q}}`, l.EventID); !strings.HasSuffix(string(l.Payload), want) || !strings.Contains(l.Reason, "database") {
			t.Errorf("letter %+v, payload %s", l, l.Payload)
		}
	}
	slices.Sort(dead)
	if diff := cmp.Diff([]string{"bad1", "bad2", "bad3"}, dead); diff != "" {
		t.Error(diff)
	}
}

func TestRejectedEventsAreDeadLettersOnceHoweverOftenTheBatchIsTried(t *testing.T) {
	b := newBench(t)
	if _, err := b.in.Ingest(t.Context(), Submission{TenantID: "demo", Body: []byte(`[{"type":"t"},{"type":1}]`)}); err != nil {
		t.Fatal(err)
	}
	b.store.fail = []error{errAway, errAway, nil}
	b.run()
	b.settle()
	letters := b.letters.all()
	if len(letters) != 1 || string(letters[0].Payload) != `{"type":1}` || letters[0].Kind != deadletter.KindEvent || letters[0].Attempts != 1 {
		t.Errorf("letters %+v", letters)
	}
}

func TestAStoreThatStandsOutsideTheLogIsRefused(t *testing.T) {
	b := newBench(t)
	b.ingest("a")
	b.store.known, b.store.next = true, b.log.Next()+5
	err := b.sink.Locate(t.Context())
	if err == nil || !strings.Contains(err.Error(), "end of the log is missing") {
		t.Errorf("error %v", err)
	}
}

func TestTheSinkGoesOnFromWhereTheStoreStands(t *testing.T) {
	b := newBench(t)
	b.ingest("a")
	b.run()
	b.settle()
	b.halt()
	b.newSink()
	b.ingest("b")
	second := b.log.Next()
	b.ingest("c")
	// Someone has stored b meanwhile: a drain of this log, say.
	b.store.next = second
	b.run()
	b.settle()
	b.wantIDs("a", "c")
}

func TestASinkThatGivesWayRestsAndStillCatchesUp(t *testing.T) {
	b := newBench(t)
	asked := 0
	b.sink.o.GiveWay = func() bool { asked++; return true }
	b.run()
	for i := range 5 {
		b.ingest(fmt.Sprint("e", i))
		b.settle()
	}
	b.wantIDs("e0", "e1", "e2", "e3", "e4")
	b.halt()
	if asked != len(b.store.batches) {
		t.Errorf("asked %d times in %d commits", asked, len(b.store.batches))
	}
}

func TestTheSinkForgetsACarriedFrameWhenTheStoreStandsBeforeIt(t *testing.T) {
	b := newBench(t)
	midnight := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	b.clock.Set(midnight.Add(-time.Second))
	first := b.log.Next()
	b.ingest("b")
	b.ingest("c")
	b.clock.Set(midnight)
	b.ingest("d") // carried while b and c are committed
	once := false
	b.store.onAppend = func(Batch) error {
		if !once {
			once = true // the store turns out to stand between b and c
			b.store.mu.Lock()
			b.store.known, b.store.next = true, first+1
			b.store.mu.Unlock()
		}
		return nil
	}
	b.run()
	b.settle()
	b.wantIDs("c", "d")
}

func TestAStoreThatIsAwayWhileTheSinkLooksForItsPlaceIsAskedAgain(t *testing.T) {
	b := newBench(t)
	b.ingest("a")
	b.run()
	b.settle()
	b.halt()
	b.newSink()
	b.ingest("b")
	second := b.log.Next()
	b.ingest("c")
	b.store.next, b.store.away = second, 3
	b.run()
	b.settle()
	b.wantIDs("a", "c")
}

func TestRecordsOfAFrameThatTheStoreHasAlreadyAreLeftOut(t *testing.T) {
	record := func(id string) []byte {
		raw := appendRecordHeader(nil, batchID{}, "demo", 1, 0)
		return appendRecordEvent(raw, Hash{}, &scan.Event{ID: []byte(id), Type: []byte("t"), Payload: []byte("1")})
	}
	var b batch
	b.begin(11)
	b.add(wal.Frame{FirstSeq: 10, ReceivedAt: noon, Records: [][]byte{record("a"), record("b"), record("c")}})
	if b.err != nil || len(b.items) != 2 || b.items[0].ID != "b" || b.upTo != 13 {
		t.Errorf("batch %+v, error %v", b.items, b.err)
	}
}

func TestRedrivingALetterStoresItsEventOnce(t *testing.T) {
	b := newBench(t)
	b.run()
	redriver := Redriver{Ingester: b.in, Store: b.store, Commits: b.sink}
	letter := deadletter.Letter{ID: "0198c0de-0000-7000-8000-000000000001", TenantID: "demo", Kind: deadletter.KindEvent,
		ContentType: "application/json", Payload: []byte(`{"type":1}`)}
	var rejected *deadletter.RejectedError
	if err := redriver.Redrive(t.Context(), letter, letter.Payload); !errors.As(err, &rejected) {
		t.Fatalf("what is still wrong: %v, want a rejection", err)
	}
	for range 2 {
		if err := redriver.Redrive(t.Context(), letter, []byte(`{"type":"mended"}`)); err != nil {
			t.Fatal(err)
		}
		b.settle()
	}
	b.wantIDs(letter.ID)
	// Long after the dedupe window the store still knows.
	b.clock.Set(noon.Add(time.Hour))
	if err := redriver.Redrive(t.Context(), letter, []byte(`{"type":"mended"}`)); err != nil {
		t.Fatal(err)
	}
	b.settle()
	b.wantIDs(letter.ID)
}

func TestTheWindowIsRebuiltFromTheLog(t *testing.T) {
	b := newBench(t)
	b.ingest("a", "b")
	w := newTestWindow(t)
	if err := RebuildWindow(t.Context(), w, recentStore{}, b.log, b.log.First(), noon.Add(-2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	in := newIngester(t, IngesterOptions{Log: b.log, Now: b.clock.Now, Window: w})
	r, err := in.Ingest(t.Context(), Submission{TenantID: "demo", Body: []byte(`[{"id":"a","type":"t"},{"id":"stored","type":"t"},{"id":"new","type":"t"}]`)})
	if err != nil || r.Duplicates != 2 {
		t.Errorf("%+v, %v, want the ones of the log and of the store recognised", r, err)
	}
}

// recentStore has one recent event.
type recentStore struct{ Store }

func (recentStore) RecentHashes(_ context.Context, _ time.Time, yield func(Hash, time.Time) bool) error {
	yield(HashOf("demo", "", "stored"), noon.Add(-time.Minute))
	return nil
}

// trimmed is a log that begins and ends where the test says.
type trimmed struct {
	*wal.Log
	first, next uint64
}

func (l *trimmed) First() uint64        { return l.first }
func (l *trimmed) Next() uint64         { return l.next }
func (l *trimmed) Release(uint64) error { return nil }

func TestALogWhoseBeginningIsGoneIsNotTakenForANewOne(t *testing.T) {
	for name, c := range map[string]struct {
		first, next uint64
		want        string // empty: it is begun at first
	}{
		"a new log":                                 {1, 1, ""},
		"one that was never sunk":                   {1, 8, ""},
		"one that is empty and was not always":      {8, 8, ""},
		"one that has something, and once had more": {5, 8, "first 4 records"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			sink, err := NewSink(SinkOptions{Log: &trimmed{b.log, c.first, c.next}, Store: b.store, DeadLetters: b.letters})
			if err != nil {
				t.Fatal(err)
			}
			err = sink.Locate(t.Context())
			if c.want == "" {
				if err != nil || sink.Committed() != c.first {
					t.Errorf("stands at %d, error %v; want %d", sink.Committed(), err, c.first)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "does not know it") {
				t.Errorf("error %v; want one that says that the %s are not in this store", err, c.want)
			}
		})
	}
}

func TestAStoreThatForgetsALogWhileItIsSunkGetsAllOfItAgain(t *testing.T) {
	b := newBench(t)
	b.ingest("a")
	b.run()
	b.settle()
	b.forgetLog()
	b.ingest("b")
	b.settle()
	b.wantIDs("a", "b") // not b alone
}

func TestAStoreThatForgetsALogWhoseBeginningIsGoneStopsTheSink(t *testing.T) {
	b := newBench(t)
	log := &trimmed{b.log, 1, 1}
	b.sink.o.Log = log
	b.ingest("a")
	b.run()
	b.settle()
	log.first, log.next = 2, 2 // what the store had was given up
	b.forgetLog()
	b.ingest("b")
	if err := <-b.ended; err == nil || !strings.Contains(err.Error(), "does not know it") {
		t.Errorf("the sink ended with %v; want that the store lost the log", err)
	}
	if ids := b.store.ids(); len(ids) > 0 {
		t.Errorf("%v was stored: what came before it would not be missed", ids)
	}
}

// forgetLog is a failover to a replica that has nothing of the log yet.
func (b *bench) forgetLog() {
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	b.store.known, b.store.next, b.store.rows = false, 0, nil
}

func TestABatchThatTakesTooLongIsTriedWithHalf(t *testing.T) {
	for name, cause := range map[string]error{"the server ends it": ErrSlow, "it does not answer": context.DeadlineExceeded} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			const most = 30 // rows that the store takes in time
			var sizes []int
			b.store.onAppend = func(r Batch) error {
				sizes = append(sizes, len(r.Rows))
				if len(r.Rows) > most {
					return fmt.Errorf("commit events: %w", cause)
				}
				return nil
			}
			var want []string
			for i := range 200 {
				want = append(want, fmt.Sprint("e", i))
				b.ingest(want[i])
			}
			b.run()
			b.settle()
			b.wantIDs(want...)
			if diff := cmp.Diff([]int{200, 100, 50, 25, 25}, sizes[:5]); diff != "" {
				t.Errorf("rows of the first batches differ (-want +got):\n%s", diff)
			}
			for i := range 3 * regrowAfter {
				b.ingest(fmt.Sprint("more", i))
				b.settle()
			}
			b.halt()
			if b.sink.maxRows <= 2*most {
				t.Errorf("after %d more batches one has at most %d rows still", 3*regrowAfter, b.sink.maxRows)
			}
		})
	}
}

func TestABatchOfOneFrameThatTakesTooLongIsTriedAgain(t *testing.T) {
	b := newBench(t)
	b.store.fail = slices.Repeat([]error{ErrSlow}, 5)
	b.ingest("a", "b")
	b.run()
	b.settle()
	b.wantIDs("a", "b")
}

func TestManyRefusedEventsAreToldInFewLines(t *testing.T) {
	b := newBench(t)
	var told strings.Builder
	b.sink.o.Logger = slog.New(slog.NewTextHandler(&told, nil))
	b.store.refuses = func(Row) bool { return true }
	var ids []string
	for i := range 100 {
		ids = append(ids, fmt.Sprint("e", i))
	}
	b.ingest(ids...)
	b.run()
	b.settle()
	b.halt()
	if n := strings.Count(told.String(), "\n"); n > toldRefused+1 || !strings.Contains(told.String(), fmt.Sprint("events=", 100-toldRefused)) {
		t.Errorf("%d lines tell of 100 events:\n%s", n, told.String())
	}
	if n := len(b.letters.all()); n != 100 {
		t.Errorf("%d dead letters, want 100", n)
	}
}
