package wal_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"millrace/internal/wal"
	"millrace/internal/wal/vfs/faultfs"
)

func TestTheQueueGaugeOfAnIdleLogIsZero(t *testing.T) {
	reg := prometheus.NewRegistry()
	o := smallOptions(faultfs.New(1))
	o.Metrics = wal.NewMetrics(reg)
	l := mustOpen(t, o)
	for range 100 {
		mustAppend(t, l, strings.Repeat("x", 3000))
		if q := metric(t, reg, "millrace_wal_queued_bytes"); q != 0 {
			t.Fatalf("idle, and the gauge says that %v bytes wait", q)
		}
	}
}

func TestALoneCallerIsNeverToldThatTheLogIsBusy(t *testing.T) {
	o := smallOptions(faultfs.New(1))
	o.MaxQueuedBytes = 4000
	l := mustOpen(t, o)
	for i := range 5000 {
		if _, err := l.Append(make([]byte, 3000)); err != nil {
			t.Fatalf("append %d: %v", i, err)
		}
	}
}
