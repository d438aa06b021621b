package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/event"
	"millrace/internal/event/dedupe"
	"millrace/internal/event/scan"
)

func newPublisher(t testing.TB, o PublisherOptions) *Publisher {
	t.Helper()
	p, err := NewPublisher(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// closeNow ends a publisher that may never get an answer.
func closeNow(t testing.TB, p *Publisher) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
	if n := p.InflightBytes(); n != 0 {
		t.Errorf("%d bytes are left in flight", n)
	}
}

func TestRecordsShareAMessageWhileEarlierOnesAreUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemBroker(1)
		proceed := make(chan struct{})
		b.onPublish = func(int, []byte) error { <-proceed; return nil }
		p := newPublisher(t, PublisherOptions{Broker: b, MessagesPerPartition: 1})
		var group sync.WaitGroup
		appendOne := func(text string) {
			group.Go(func() {
				if _, err := p.Append([]byte(text)); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		appendOne("a") // sent
		appendOne("b") // next, waits for its turn
		appendOne("c")
		appendOne("d")
		close(proceed)
		group.Wait()
		want := []string{
			string(event.AppendPack(nil, [][]byte{[]byte("a")})),
			string(event.AppendPack(nil, [][]byte{[]byte("b")})),
			string(event.AppendPack(nil, [][]byte{[]byte("c"), []byte("d")})),
		}
		if diff := cmp.Diff(want, b.records(t)); diff != "" {
			t.Error(diff)
		}
		closeNow(t, p)
	})
}

func TestAPartitionThatDoesNotAnswerHoldsUpItsOwnMessagesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemBroker(3)
		stuck := make(chan struct{})
		b.onPublish = func(partition int, _ []byte) error {
			if partition == 1 {
				<-stuck
			}
			return nil
		}
		p := newPublisher(t, PublisherOptions{Broker: b})
		var slow atomic.Int32
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				began := time.Now()
				if _, err := p.Append([]byte("x")); err != nil {
					t.Error(err)
				}
				if time.Since(began) > 0 {
					slow.Add(1)
				}
			})
			synctest.Wait()
		}
		time.Sleep(time.Second)
		close(stuck)
		group.Wait()
		if n := slow.Load(); n != 2 { // as many messages as the partition may have
			t.Errorf("%d of 20 waited for the partition that does not answer, want 2", n)
		}
		closeNow(t, p)
	})
}

func TestAMessageThatIsDefinitelyNowhereGoesToAnotherPartition(t *testing.T) {
	for _, cause := range []error{event.ErrLogAway, event.ErrLogFull} {
		synctest.Test(t, func(t *testing.T) {
			b := newMemBroker(4)
			b.onPublish = func(partition int, _ []byte) error {
				if partition != 2 {
					return cause
				}
				return nil
			}
			p := newPublisher(t, PublisherOptions{Broker: b})
			for range 10 {
				if _, err := p.Append([]byte("x")); err != nil {
					t.Error(err)
				}
			}
			if n := len(b.parts[2].messages); n != 10 {
				t.Errorf("%d messages are there", n)
			}
			closeNow(t, p)
		})
	}
}

func TestWhatNoPartitionTakesIsRefusedAndSoIsWhatComesNext(t *testing.T) {
	for _, cause := range []error{event.ErrLogAway, event.ErrLogFull} {
		synctest.Test(t, func(t *testing.T) {
			b := newMemBroker(2)
			b.onPublish = func(int, []byte) error { return cause }
			p := newPublisher(t, PublisherOptions{Broker: b})
			began := time.Now()
			if _, err := p.Append([]byte("x")); !errors.Is(err, cause) {
				t.Errorf("error %v, want %v", err, cause)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			if err := p.Admit(); !errors.Is(err, cause) || !errors.Is(p.Err(), cause) {
				t.Errorf("afterwards: %v, %v", err, p.Err())
			}
			b.set(func() { b.onPublish = nil })
			time.Sleep(refuseFor + coolDown)
			if _, err := p.Append([]byte("x")); err != nil {
				t.Errorf("when they take it again: %v", err)
			}
			if err := p.Admit(); err != nil {
				t.Error(err)
			}
			closeNow(t, p)
		})
	}
}

func TestABrokerThatIsAwayRefusesBeforeAnythingIsRead(t *testing.T) {
	b := newMemBroker(1)
	b.away = errAway
	p := newPublisher(t, PublisherOptions{Broker: b})
	if err := p.Admit(); !errors.Is(err, event.ErrLogAway) || !errors.Is(err, errAway) {
		t.Errorf("error %v", err)
	}
	closeNow(t, p)
}

func TestBytesUnderWayAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemBroker(1)
		proceed := make(chan struct{})
		b.onPublish = func(int, []byte) error { <-proceed; return nil }
		p := newPublisher(t, PublisherOptions{Broker: b, MaxInflightBytes: 1000, MaxRecordBytes: 1000})
		var group sync.WaitGroup
		var busy, kept int
		var mu sync.Mutex
		for range 20 {
			group.Go(func() {
				_, err := p.Append(make([]byte, 200))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					kept++
				case errors.Is(err, event.ErrLogBusy):
					busy++
				default:
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		close(proceed)
		group.Wait()
		if kept != 5 || busy != 15 {
			t.Errorf("%d were kept and %d refused, want 5 and 15", kept, busy)
		}
		if _, err := p.Append(make([]byte, 1001)); !errors.Is(err, event.ErrLogTooLarge) {
			t.Errorf("a record beyond the bound: %v", err)
		}
		closeNow(t, p)
	})
}

func TestWhoLeavesBeforeItsTurnHasKeptNothingForCertain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemBroker(1)
		proceed := make(chan struct{})
		b.onPublish = func(int, []byte) error { <-proceed; return nil }
		p := newPublisher(t, PublisherOptions{Broker: b, MessagesPerPartition: 1, AckTimeout: time.Minute})
		var group sync.WaitGroup
		group.Go(func() { _, _ = p.Append([]byte("first")) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var decided []error
		err := p.AppendWithin(ctx, []byte("second"), func(err error) { decided = append(decided, err) })
		if !errors.Is(err, event.ErrLogBusy) || len(decided) != 1 || !errors.Is(decided[0], event.ErrLogBusy) {
			t.Errorf("error %v, decided %v", err, decided)
		}
		close(proceed)
		group.Wait()
		synctest.Wait()
		if got := strings.Join(b.records(t), ""); strings.Contains(got, "second") {
			t.Error("it is in the stream all the same")
		}
		closeNow(t, p)
	})
}

func TestCloseSendsWhatIsQueuedAndAnswersEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMemBroker(1)
		b.onPublish = func(int, []byte) error { time.Sleep(time.Second); return nil }
		p := newPublisher(t, PublisherOptions{Broker: b})
		var kept atomic.Int32
		for range 10 {
			if err := p.AppendAsync([]byte("x"), func(err error) {
				if err == nil {
					kept.Add(1)
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Close(t.Context()); err != nil || kept.Load() != 10 {
			t.Errorf("%d of 10 were kept, error %v", kept.Load(), err)
		}
		if _, err := p.Append([]byte("x")); !errors.Is(err, event.ErrLogClosed) {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestAClientThatPanicsTakesNothingDown(t *testing.T) {
	b := newMemBroker(1)
	b.onPublish = func(int, []byte) error { panic("broken") }
	p := newPublisher(t, PublisherOptions{Broker: b})
	if _, err := p.Append([]byte("x")); !errors.Is(err, event.ErrLogUnknown) {
		t.Errorf("error %v", err)
	}
	closeNow(t, p)
}

// TestWhoRepeatsWhatIsUndecidedGetsItsOutcome is why the claim stays open while
// nobody knows: the same events sent again are no second copy.
func TestWhoRepeatsWhatIsUndecidedGetsItsOutcome(t *testing.T) {
	for _, stored := range []bool{true, false} {
		t.Run(fmt.Sprint("stored=", stored), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newMemBroker(1)
				answer := make(chan struct{})
				first := true
				b.onPublish = func(int, []byte) error {
					if !first {
						return nil
					}
					first = false
					<-answer
					if stored {
						return nil
					}
					return event.ErrLogTooLarge // whatever is certain
				}
				p := newPublisher(t, PublisherOptions{Broker: b})
				window, err := dedupe.New(dedupe.Options{Window: 2 * time.Minute, MemoryBytes: 1 << 20})
				if err != nil {
					t.Fatal(err)
				}
				in, err := event.NewIngester(event.IngesterOptions{Log: p, Ack: event.AckStream, Window: window, StreamAckTimeout: 3 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				submission := event.Submission{TenantID: "demo", Body: []byte(`[{"id":"a","type":"t","payload":1}]`), Format: scan.JSON}
				for range 2 { // the second waits for the first's outcome, in vain
					began := time.Now()
					_, err = in.Ingest(t.Context(), submission)
					var not *event.Unavailable
					if !errors.As(err, &not) || !not.Unknown || not.Reason != "outcome-unknown" && !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
						t.Fatalf("error %v after %v", err, time.Since(began))
					}
				}
				time.AfterFunc(time.Second, func() { close(answer) })
				r, err := in.Ingest(t.Context(), submission)
				if err != nil || r.Accepted != 1 || r.Duplicates == 1 != stored {
					t.Errorf("receipt %+v, error %v", r, err)
				}
				if n := len(b.records(t)); n != 1 {
					t.Errorf("%d messages are in the stream", n)
				}
				closeNow(t, p)
			})
		})
	}
}

func TestRefusalsOfAStreamReachTheCallerWithTheirReasons(t *testing.T) {
	for reason, cause := range map[string]error{"backlog-full": event.ErrLogFull, "stream-away": event.ErrLogAway} {
		synctest.Test(t, func(t *testing.T) {
			b := newMemBroker(1)
			b.onPublish = func(int, []byte) error { return fmt.Errorf("%w: partition 0", cause) }
			p := newPublisher(t, PublisherOptions{Broker: b})
			in, err := event.NewIngester(event.IngesterOptions{Log: p, Ack: event.AckStream})
			if err != nil {
				t.Fatal(err)
			}
			_, err = in.Ingest(t.Context(), event.Submission{TenantID: "demo", Body: []byte(`[{"type":"t","payload":1}]`)})
			var not *event.Unavailable
			if !errors.As(err, &not) || not.Unknown || not.Reason != reason || not.RetryAfter <= 0 {
				t.Errorf("error %v, want %s", err, reason)
			}
			closeNow(t, p)
		})
	}
}

func TestPublisherOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	small := newMemBroker(1)
	small.maxBytes = 1000
	for name, o := range map[string]PublisherOptions{
		"no broker":                    {},
		"messages that are too small":  {Broker: small},
		"a decision before the answer": {Broker: newMemBroker(1), AckTimeout: time.Minute, DecideWithin: time.Second},
		"a negative bound":             {Broker: newMemBroker(1), MaxInflightBytes: -1},
	} {
		if _, err := NewPublisher(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestAnEnvelopeGivesBackWhatWentInAndRefusesEverythingElse(t *testing.T) {
	random := make([]byte, 10_000)
	for i := range random {
		random[i] = byte(i * i >> 3)
	}
	for _, pack := range [][]byte{nil, []byte("x"), []byte(strings.Repeat("ab", 50_000)), random} {
		message := seal(pack)
		got, err := open(message)
		if err != nil || !slices.Equal(got, pack) || len(message) > MessageBytes(len(pack)) {
			t.Errorf("a pack of %d bytes: %d bytes came back, error %v, the message has %d", len(pack), len(got), err, len(message))
		}
		for _, at := range []int{0, 1, 2, len(message) - 1} {
			damaged := slices.Clone(message)
			damaged[at] ^= 0x40
			if _, err := open(damaged); err == nil {
				t.Errorf("a pack of %d bytes with byte %d damaged was taken", len(pack), at)
			}
		}
		if _, err := open(message[:len(message)-1]); err == nil {
			t.Error("a message that is cut off was taken")
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(seal([]byte("pack")))
	f.Add(seal([]byte(strings.Repeat("pack", 100))))
	f.Fuzz(func(_ *testing.T, message []byte) { _, _ = open(message) })
}
