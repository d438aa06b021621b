package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"millrace/internal/cli"
	"millrace/internal/config"
	"millrace/internal/event"
	"millrace/internal/store/sqlite"
	"millrace/internal/wal"
)

// refusing is a database whose events refuse what they are told to.
type refusing struct {
	database
	events picky
}

func (r refusing) Events() event.Store { return r.events }

type picky struct {
	event.Store
	refuses func(b event.Batch) error
}

func (p picky) Append(ctx context.Context, b event.Batch) (int, error) {
	if err := p.refuses(b); err != nil {
		return 0, err
	}
	return p.Store.Append(ctx, b)
}

// drained is a log with so many events of one record each, and a database.
func drained(t *testing.T, events int, refuses func(b event.Batch) error) (*wal.Log, *storage) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), sqlite.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	l, err := wal.Open(t.Context(), wal.Options{Dir: t.TempDir(), ReserveBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	in, err := event.NewIngester(event.IngesterOptions{Log: l})
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		own := event.Own{TenantID: "demo", ID: fmt.Sprint(i), Type: "t", Source: event.SourceOrders, Timestamp: time.Now(), Payload: []byte("{}")}
		if err := in.IngestOwn(t.Context(), []event.Own{own}); err != nil {
			t.Fatal(err)
		}
	}
	return l, &storage{database: refusing{db, picky{db.Events(), refuses}}}
}

func TestADrainGivesUpWhenTheDatabaseTakesNothing(t *testing.T) {
	denied := errors.New("permission denied for table events")
	l, db := drained(t, 3, func(b event.Batch) error {
		if b.From > 1 {
			return denied
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cfg := &config.Config{}
	cfg.Events.Sink.MaxBatchRows = 1
	failing := false
	done, err := drain(ctx, cfg, l, db, 300*time.Millisecond, func(p cli.DrainProgress) { failing = failing || errors.Is(p.Failing, denied) })
	if ctx.Err() != nil || !errors.Is(err, denied) || !strings.Contains(err.Error(), "1 of the log's 3 records") {
		t.Errorf("error %v; want one that names the cause and how far it came", err)
	}
	if !failing || done.Done != 1 || done.Records != 3 {
		t.Errorf("told of the failure: %v; done %+v, want 1 of 3", failing, done)
	}
}

func TestADrainTellsOfDeadLetters(t *testing.T) {
	l, db := drained(t, 3, func(b event.Batch) error {
		for _, r := range b.Rows {
			if r.ID == "1" {
				return fmt.Errorf("%w: so it is", event.ErrData)
			}
		}
		return nil
	})
	done, err := drain(t.Context(), &config.Config{}, l, db, time.Minute, func(cli.DrainProgress) {})
	if err != nil || done.Done != 3 || done.DeadLetters != 1 || done.Failing != nil {
		t.Errorf("done %+v, error %v; want 3 records and 1 dead letter", done, err)
	}
}
