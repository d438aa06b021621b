package fulfilment_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"millrace/internal/fulfilment"
)

// BenchmarkNoticeToSettlement hands notices over from 64 callers at once and waits
// until a receiver on this machine has all of them and that is written. One
// operation is one webhook: enqueued, claimed, signed, sent, settled.
func BenchmarkNoticeToSettlement(b *testing.B) {
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer r.Close()
	w := newWorld(b, func(o *fulfilment.Options) { o.Now = time.Now; o.Policy.Poll = 0 })
	w.store.settled = make(chan fulfilment.Settlement, b.N+1)
	w.put(b, "shop", r.URL)
	w.run(b)
	b.ResetTimer()
	todo := make(chan int)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := range todo {
				n := w.notice(0)
				n.OrderID = uuid.Must(uuid.NewV7()).String()
				n.ID = n.OrderID
				if got, err := w.Notify(b.Context(), n); err != nil || got != 1 {
					b.Errorf("notice %d: %d, %v", i, got, err)
				}
			}
		})
	}
	for i := range b.N {
		todo <- i
	}
	close(todo)
	wg.Wait()
	handed := b.Elapsed()
	for range b.N {
		wait(b, w.store.settled, "the settlements")
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "webhooks/s")
	b.ReportMetric(float64(b.N)/handed.Seconds(), "notices/s")
	b.ReportMetric(float64(w.store.enqueues.Load())/float64(b.N), "enqueues/op")
}
