package wal_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"millrace/internal/wal"
	"millrace/internal/wal/vfs"
)

// benchDir is on a real disk if MILLRACE_BENCH_DIR says where one is.
func benchDir(b *testing.B) string {
	dir, err := os.MkdirTemp(os.Getenv("MILLRACE_BENCH_DIR"), "millrace-wal-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// batchRecord is a record of the size of a batch of 100 events.
func batchRecord() []byte {
	rec := make([]byte, 48<<10)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range rec {
		rec[i] = byte(rng.Uint32())
	}
	return rec
}

// BenchmarkAppend appends 48 KiB records from many goroutines while a reader
// follows and releases, as a server does.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l, err := wal.Open(b.Context(), wal.Options{Dir: benchDir(b) + "/wal"})
			if err != nil {
				b.Fatal(err)
			}
			followed := follow(b, l)
			rec := batchRecord()
			b.SetBytes(int64(len(rec)))
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for c := range callers {
				wg.Go(func() {
					for i := c; i < b.N; i += callers {
						if _, err := l.Append(rec); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)*100/b.Elapsed().Seconds(), "events/s")
			_ = l.Close()
			<-followed
		})
	}
}

// follow reads and releases everything until the log is closed.
func follow(b *testing.B, l *wal.Log) <-chan struct{} {
	r, err := l.NewReader(l.First())
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.Close()
		for {
			f, err := r.Next(ctx)
			if err != nil {
				return
			}
			if err := l.Release(f.Next()); err != nil {
				b.Error(err)
			}
		}
	}()
	return done
}

// BenchmarkOneSyncPerRecord is what Append is measured against: each record
// written and synced by itself, into blocks reserved beforehand.
func BenchmarkOneSyncPerRecord(b *testing.B) {
	const fileBytes = 64 << 20
	f, err := vfs.OS{}.Create(benchDir(b) + "/file")
	if err != nil {
		b.Fatal(err)
	}
	if err := f.Allocate(fileBytes); err != nil {
		b.Fatal(err)
	}
	rec := batchRecord()
	b.SetBytes(int64(len(rec)))
	b.ResetTimer()
	off := int64(0)
	for range b.N {
		if _, err := f.WriteAt(rec, off); err != nil {
			b.Fatal(err)
		}
		if err := f.Datasync(); err != nil {
			b.Fatal(err)
		}
		if off += int64(len(rec)); off+int64(len(rec)) > fileBytes {
			off = 0
		}
	}
	b.ReportMetric(float64(b.N)*100/b.Elapsed().Seconds(), "events/s")
	_ = f.Close()
}

// BenchmarkOpen opens a log with a backlog of 1 GiB.
func BenchmarkOpen(b *testing.B) {
	o := wal.Options{Dir: benchDir(b) + "/wal"}
	l, err := wal.Open(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	rec := batchRecord()
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for l.Backlog() < 1<<30 {
				if _, err := l.Append(rec); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(l.Backlog())
	for b.Loop() {
		l, err := wal.Open(b.Context(), o)
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAdmit is the cost of asking before a body is read.
func BenchmarkAdmit(b *testing.B) {
	l, err := wal.Open(b.Context(), wal.Options{Dir: benchDir(b) + "/wal"})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Admit(); err != nil {
			b.Fatal(err)
		}
	}
}
