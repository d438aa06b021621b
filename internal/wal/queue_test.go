package wal_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"millrace/internal/wal"
	"millrace/internal/wal/vfs/faultfs"
)

func TestWhoHasAnOutcomeIsNotCountedInTheQueueAnyMore(t *testing.T) {
	reg := prometheus.NewRegistry()
	fs := faultfs.New(1)
	o := smallOptions(fs)
	o.MaxQueuedBytes = 8000
	o.Metrics = wal.NewMetrics(reg)
	l := mustOpen(t, o)
	reached, wait := make(chan struct{}), make(chan struct{})
	fs.Inject(faultfs.Fault{Kind: faultfs.Sync, Path: "segment-", Times: 1, Reached: reached, Wait: wait})
	rec := []byte(strings.Repeat("x", 3000))
	type outcome struct {
		err    error
		queued float64
	}
	outcomes := make(chan outcome, 3)
	add := func() error {
		return l.AppendAsync(rec, func(error) { outcomes <- outcome{l.Admit(), metric(t, reg, "millrace_wal_queued_bytes")} })
	}
	again := make(chan error, 1)
	if err := l.AppendAsync(rec, func(error) { again <- add() }); err != nil {
		t.Fatal(err)
	}
	<-reached
	if err := add(); err != nil { // 6008 of 8000 bytes are queued now
		t.Fatal(err)
	}
	close(wait)
	if err := <-again; err != nil {
		t.Fatalf("the first record is durable, and there is no room for one more: %v", err)
	}
	for i, want := range []float64{3004, 0} {
		if got := <-outcomes; got.err != nil || (got.queued != want && got.queued != 0) {
			t.Errorf("outcome %d: Admit says %v, the gauge %v", i+1, got.err, got.queued)
		}
	}
	mustAppend(t, l, "the last")
	if q := metric(t, reg, "millrace_wal_queued_bytes"); q != 0 {
		t.Errorf("idle, and the gauge says that %v bytes wait", q)
	}
}

func TestALoneCallerIsNeverToldThatTheLogIsBusy(t *testing.T) {
	o := smallOptions(faultfs.New(1))
	o.MaxQueuedBytes = 4000
	l := mustOpen(t, o)
	for i := range 2000 {
		if _, err := l.Append(make([]byte, 3000)); err != nil {
			t.Fatalf("append %d: %v", i, err)
		}
	}
}

func TestARecordWithoutAFunctionForItsOutcomeIsCountedIfItIsLost(t *testing.T) {
	fs := faultfs.New(1)
	reg := prometheus.NewRegistry()
	o := smallOptions(fs)
	o.Metrics = wal.NewMetrics(reg)
	l := mustOpen(t, o)
	if err := l.AppendAsync([]byte(record(1)), nil); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, record(2))
	if diff := cmp.Diff(wantRecords(1, 3), readAll(t, l)); diff != "" {
		t.Error(diff)
	}
	fs.Inject(faultfs.Fault{Kind: faultfs.Sync, Path: "segment-", Times: 1, Err: syscall.EIO})
	if err := l.AppendAsync([]byte(record(3)), nil); err != nil {
		t.Fatal(err)
	}
	<-l.Failed()
	_ = l.Close()
	if lost := metric(t, reg, "millrace_wal_unacknowledged_lost_records_total"); lost != 1 {
		t.Errorf("%v records were counted as lost, 1 was", lost)
	}
}

func TestAPanicInTheFunctionForAnOutcomeIsNoMatterOfItsNeighbours(t *testing.T) {
	fs := faultfs.New(1)
	l := mustOpen(t, smallOptions(fs))
	reached, wait := make(chan struct{}), make(chan struct{})
	fs.Inject(faultfs.Fault{Kind: faultfs.Sync, Path: "segment-", Times: 1, Reached: reached, Wait: wait})
	outcomes := make(chan error, 2)
	add := func(seq uint64, finished func(error)) {
		t.Helper()
		if err := l.AppendAsync([]byte(record(seq)), finished); err != nil {
			t.Fatal(err)
		}
	}
	add(1, nil)
	<-reached
	add(2, func(err error) { outcomes <- err }) // these share a frame
	add(3, func(error) { panic("out of order") })
	add(4, func(err error) { outcomes <- err })
	close(wait)
	for range 2 {
		if err := <-outcomes; err != nil {
			t.Errorf("a neighbour was told %v", err)
		}
	}
	mustAppend(t, l, record(5))
	if diff := cmp.Diff(wantRecords(1, 6), readAll(t, l)); diff != "" || l.Err() != nil {
		t.Errorf("the log's error is %v: %s", l.Err(), diff)
	}
}
