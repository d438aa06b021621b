package event

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/event/scan"
	"millrace/internal/wal"
	"millrace/internal/wal/vfs/faultfs"
)

func newIngester(t testing.TB, o IngesterOptions) *Ingester {
	t.Helper()
	if o.Window == nil {
		o.Window = newTestWindow(t)
	}
	if o.KeepBodyBytes == 0 {
		o.KeepBodyBytes = 64 << 10
	}
	in, err := NewIngester(o)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

type outcome struct {
	receipt Receipt
	err     error
}

// submit runs Ingest in the background.
func submit(in *Ingester, body string) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		r, err := in.Ingest(context.Background(), Submission{TenantID: "demo", Body: []byte(body)})
		done <- outcome{r, err}
	}()
	return done
}

func rowsOf(t *testing.T, raw []byte) (rows []Row, dead []deadEntry) {
	t.Helper()
	r, err := decodeRecord(raw)
	if err != nil {
		t.Fatal(err)
	}
	for range r.events {
		row, err := r.nextEvent(noon.UnixNano())
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, cloneRow(row))
	}
	for range r.dead {
		e, err := r.nextDead()
		if err != nil {
			t.Fatal(err)
		}
		dead = append(dead, e)
	}
	if len(r.rest) != 0 {
		t.Fatalf("%d bytes are left of the record", len(r.rest))
	}
	return rows, dead
}

func TestWhatIsAcceptedStandsInTheLogAsItCame(t *testing.T) {
	log := newGateLog()
	in := newIngester(t, IngesterOptions{Log: log})
	log.outcome <- nil
	got := <-submit(in, `[{"id":"a","type":"t.one","source":"s","timestamp":"2026-11-22T10:00:00+01:00","payload":{"x": 1.50},"extra":[1]},
		{"type":"t.two"}, {"type":7}, {"id":"c","type":"t","tenantId":"other"}]`)
	if got.err != nil {
		t.Fatal(got.err)
	}
	rows, dead := rowsOf(t, <-log.entered)
	if len(rows) != 2 || len(dead) != 2 {
		t.Fatalf("%d rows and %d dead entries, want 2 and 2", len(rows), len(dead))
	}
	want := Row{Hash: HashOf("demo", "s", "a"), TenantID: "demo", ID: "a", Type: "t.one", Source: "s",
		Timestamp:  time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC).UnixNano(),
		ReceivedAt: noon.UnixNano(), Attributes: `{"extra":[1]}`, Payload: `{"x": 1.50}`}
	if diff := cmp.Diff(want, rows[0]); diff != "" {
		t.Error(diff)
	}
	if rows[1].Timestamp != noon.UnixNano() || rows[1].Payload != "null" || len(rows[1].ID) != 36 {
		t.Errorf("the event without id, time and payload became %+v", rows[1])
	}
	r := got.receipt
	if r.Accepted != 2 || len(r.Rejected) != 2 || r.Rejected[0].Index != 2 || r.Rejected[1].ID != "c" {
		t.Errorf("receipt %+v", r)
	}
	if diff := cmp.Diff([]string{"a", rows[1].ID}, r.IDs); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(r.Rejected[1].Reason, "tenant") || string(dead[1].payload) != `{"id":"c","type":"t","tenantId":"other"}` {
		t.Errorf("the foreign event: %q, kept as %q", r.Rejected[1].Reason, dead[1].payload)
	}
}

const oneEvent = `[{"id":"a","type":"t"}]`

func TestADuplicateOfAPendingEventWaitsForItsFsync(t *testing.T) {
	log := newGateLog()
	in := newIngester(t, IngesterOptions{Log: log})
	original := submit(in, oneEvent)
	<-log.entered // the original is in its fsync
	duplicate := submit(in, `[{"id":"b","type":"t"},{"id":"a","type":"t"}]`)
	rows, _ := rowsOf(t, <-log.entered)
	if len(rows) != 1 || rows[0].ID != "b" {
		t.Fatalf("the second batch wrote %+v, want only what is new", rows)
	}
	log.outcome <- nil
	log.outcome <- nil
	for name, done := range map[string]<-chan outcome{"original": original, "duplicate": duplicate} {
		got := <-done
		if got.err != nil {
			t.Fatalf("%s: %v", name, got.err)
		}
		if name == "duplicate" && (got.receipt.Accepted != 2 || got.receipt.Duplicates != 1) {
			t.Errorf("receipt %+v, want 2 accepted, 1 of them a duplicate", got.receipt)
		}
	}
}

func TestADuplicateIsWrittenItselfWhenTheOriginalFails(t *testing.T) {
	log := newGateLog()
	in := newIngester(t, IngesterOptions{Log: log})
	original := submit(in, oneEvent)
	<-log.entered
	duplicate := submit(in, oneEvent) // claims nothing, waits
	select {
	case got := <-duplicate:
		t.Fatalf("the duplicate was answered before the original was durable: %+v", got)
	case <-log.entered:
		t.Fatal("the duplicate was written beside the original")
	case <-time.After(20 * time.Millisecond):
	}
	log.outcome <- wal.ErrDiskFull
	var refusal *Unavailable
	if got := <-original; !errors.As(got.err, &refusal) || refusal.Reason != "disk-full" || refusal.Unknown {
		t.Errorf("the original: %v", got.err)
	}
	rows, _ := rowsOf(t, <-log.entered)
	if len(rows) != 1 || rows[0].ID != "a" {
		t.Errorf("the duplicate wrote %+v", rows)
	}
	log.outcome <- nil
	if got := <-duplicate; got.err != nil || got.receipt.Accepted != 1 || got.receipt.Duplicates != 0 {
		t.Errorf("the duplicate: %+v", got)
	}
}

func TestADuplicateSharesAnUnknownOutcome(t *testing.T) {
	log := newGateLog()
	in := newIngester(t, IngesterOptions{Log: log})
	original := submit(in, oneEvent)
	<-log.entered
	duplicate := submit(in, oneEvent)
	log.outcome <- fmt.Errorf("fsync: %w", wal.ErrUnknown)
	var refusal *Unavailable
	if got := <-original; !errors.As(got.err, &refusal) || !refusal.Unknown {
		t.Errorf("the original: %+v, want an unknown outcome", got)
	}
	select {
	case got := <-duplicate:
		if !errors.As(got.err, &refusal) || !refusal.Unknown {
			t.Errorf("the duplicate: %+v, want an unknown outcome", got)
		}
	case raw := <-log.entered:
		// The duplicate came after the original had failed: then it is on its own.
		if rows, _ := rowsOf(t, raw); len(rows) != 1 {
			t.Errorf("rows %+v", rows)
		}
		log.outcome <- nil
		if got := <-duplicate; got.err != nil {
			t.Errorf("the duplicate on its own: %v", got.err)
		}
	}
}

func TestAnEventTwiceInOneBatchIsWrittenOnce(t *testing.T) {
	log := newGateLog()
	in := newIngester(t, IngesterOptions{Log: log})
	log.outcome <- nil
	got := <-submit(in, `[{"id":"a","type":"t"},{"id":"a","type":"t"},{"id":"a","type":"t","source":"other"}]`)
	if got.err != nil || got.receipt.Accepted != 3 || got.receipt.Duplicates != 1 {
		t.Errorf("%+v", got)
	}
	if rows, _ := rowsOf(t, <-log.entered); len(rows) != 2 {
		t.Errorf("%d rows, want 2: another source is another event", len(rows))
	}
}

func TestABodyThatIsNotJSONIsRefusedAndKept(t *testing.T) {
	log := newGateLog()
	in := newIngester(t, IngesterOptions{Log: log, KeepBodyBytes: 8})
	log.outcome <- nil
	got := <-submit(in, `{"events":[{"type":"t"`)
	var syntax *scan.SyntaxError
	if !errors.As(got.err, &syntax) {
		t.Fatalf("error %v, want a syntax error", got.err)
	}
	rows, dead := rowsOf(t, <-log.entered)
	if len(rows) != 0 || len(dead) != 1 || string(dead[0].payload) != `{"events` || !dead[0].truncated || dead[0].kind != deadBody {
		t.Errorf("kept %+v", dead)
	}
}

func TestEveryRefusalOfTheLogHasItsOwnAnswer(t *testing.T) {
	for cause, reason := range map[error]string{
		wal.ErrBacklogFull: "backlog-full", wal.ErrDiskFull: "disk-full", wal.ErrBusy: "overloaded",
		wal.ErrUnknown: "outcome-unknown", wal.ErrFailed: "log-failed", wal.ErrClosed: "shutting-down",
	} {
		log := newGateLog()
		in := newIngester(t, IngesterOptions{Log: log})
		log.outcome <- fmt.Errorf("wrapped: %w", cause)
		got := <-submit(in, oneEvent)
		var refusal *Unavailable
		if !errors.As(got.err, &refusal) || refusal.Reason != reason || refusal.RetryAfter <= 0 || refusal.Unknown != (cause == wal.ErrUnknown) {
			t.Errorf("%v is answered with %+v", cause, refusal)
		}
		if cause == wal.ErrUnknown {
			continue
		}
		log.outcome <- nil // the id is free again
		if got := <-submit(in, oneEvent); got.err != nil || got.receipt.Duplicates != 0 {
			t.Errorf("after %v the same event got %+v", cause, got)
		}
	}
}

func TestWithoutAWindowEveryEventIsKept(t *testing.T) {
	log := newGateLog()
	in, err := NewIngester(IngesterOptions{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		log.outcome <- nil
		if got := <-submit(in, oneEvent); got.err != nil || got.receipt.Duplicates != 0 {
			t.Errorf("%+v", got)
		}
	}
}

type waitFunc func(ctx context.Context, upTo uint64) error

func (f waitFunc) WaitCommitted(ctx context.Context, upTo uint64) error { return f(ctx, upTo) }

func TestAckStoreAnswersAfterTheCommitAndSaysSoWhenItCannot(t *testing.T) {
	fs := faultfs.New(1)
	log := openLog(t, fs, nil)
	var waited []uint64
	away := false
	in := newIngester(t, IngesterOptions{Log: log, Ack: AckStore, Commits: waitFunc(func(_ context.Context, upTo uint64) error {
		waited = append(waited, upTo)
		if away {
			return context.DeadlineExceeded
		}
		return nil
	})})
	for range 2 { // the second is a duplicate, which must wait as well
		if got := <-submit(in, oneEvent); got.err != nil {
			t.Fatal(got.err)
		}
	}
	if len(waited) != 2 || waited[0] != log.Next() || waited[1] != log.Next() {
		t.Errorf("waited for %v, want twice %d", waited, log.Next())
	}
	away = true
	var refusal *Unavailable
	if got := <-submit(in, `[{"id":"z","type":"t"}]`); !errors.As(got.err, &refusal) || !refusal.Unknown || refusal.Reason != "store-timeout" {
		t.Errorf("%v, want a store timeout with an unknown outcome", got.err)
	}
}

func TestAckMemoryAnswersBeforeTheWriteAndIsWrittenAllTheSame(t *testing.T) {
	log := openLog(t, faultfs.New(1), nil)
	in := newIngester(t, IngesterOptions{Log: log, Ack: AckMemory})
	if got := <-submit(in, oneEvent); got.err != nil || got.receipt.Accepted != 1 {
		t.Fatalf("%+v", got)
	}
	reader, err := log.NewReader(log.First())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	f, err := reader.Next(t.Context())
	if err != nil || len(f.Records) != 1 {
		t.Fatalf("frame %+v, %v", f, err)
	}
}

// panicLog panics in its first Append.
type panicLog struct {
	nullLog
	panicked bool
}

func (l *panicLog) Append([]byte) (wal.Position, error) {
	if !l.panicked {
		l.panicked = true
		panic("a defect")
	}
	return wal.Position{Seq: 1}, nil
}

func TestAPanicFreesWhatItsSubmissionHadClaimed(t *testing.T) {
	in := newIngester(t, IngesterOptions{Log: &panicLog{}})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the log did not panic")
			}
		}()
		_, _ = in.Ingest(t.Context(), Submission{TenantID: "demo", Body: []byte(oneEvent)})
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if r, err := in.Ingest(ctx, Submission{TenantID: "demo", Body: []byte(oneEvent)}); err != nil || r.Duplicates != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestASubmissionThatOnlyWaitedIsRefusedLikeAnyOther(t *testing.T) {
	log := newGateLog()
	in := newIngester(t, IngesterOptions{Log: log})
	original := submit(in, oneEvent)
	<-log.entered
	duplicate := submit(in, oneEvent)
	log.outcome <- wal.ErrBusy
	<-original
	<-log.entered
	log.outcome <- wal.ErrBusy
	var refusal *Unavailable
	if got := <-duplicate; !errors.As(got.err, &refusal) || refusal.Unknown {
		t.Errorf("nothing was kept, but the answer is %v", got.err)
	}
}

// lossyLog queues and then fails to write.
type lossyLog struct {
	nullLog
	fail error
}

func (l *lossyLog) AppendAsync(_ []byte, finished func(error)) error {
	finished(l.fail)
	return nil
}

func TestAckMemoryDoesNotRememberWhatTheLogLost(t *testing.T) {
	log := &lossyLog{fail: wal.ErrDiskFull}
	in := newIngester(t, IngesterOptions{Log: log, Ack: AckMemory})
	for round, wantDuplicates := range []int{0, 0, 1} {
		if round == 1 {
			log.fail = nil // there is room again, and the sender makes sure
		}
		if got := <-submit(in, oneEvent); got.err != nil || got.receipt.Duplicates != wantDuplicates {
			t.Errorf("round %d: %+v, want %d duplicates", round, got, wantDuplicates)
		}
	}
}

func TestIngestAllocatesLittle(t *testing.T) {
	in := newIngester(t, IngesterOptions{Log: nullLog{}})
	body := make([]byte, 0, 64<<10)
	n := 0
	batch := func() []byte {
		body = append(body[:0], '[')
		for i := range 100 {
			if i > 0 {
				body = append(body, ',')
			}
			n++
			body = fmt.Appendf(body, `{"id":"device-%d","type":"t","payload":{"a":%d}}`, n, i)
		}
		return append(body, ']')
	}
	build := testing.AllocsPerRun(200, func() { batch() })
	all := testing.AllocsPerRun(200, func() {
		if _, err := in.Ingest(t.Context(), Submission{TenantID: "demo", Body: batch()}); err != nil {
			t.Fatal(err)
		}
	})
	// The batch id, the claim and its channel; nothing for each event.
	most := 8.0
	if raceDetector {
		most = 50 // pools drop at random then
	}
	if all-build > most {
		t.Errorf("%v allocations for a batch of 100 events, want at most %v", all-build, most)
	}
}

// nullLog takes everything.
type nullLog struct{}

func (nullLog) Admit() error                          { return nil }
func (nullLog) Append([]byte) (wal.Position, error)   { return wal.Position{}, nil }
func (nullLog) AppendAsync([]byte, func(error)) error { return nil }
func (nullLog) Next() uint64                          { return 0 }
