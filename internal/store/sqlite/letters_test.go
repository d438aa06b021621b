package sqlite

import (
	"fmt"
	"testing"

	"millrace/internal/deadletter"
)

// TestManyDeadLettersAreWrittenInSeveralTransactions lets one letter fail: the
// transactions before its own stay, and nobody waited for them all.
func TestManyDeadLettersAreWrittenInSeveralTransactions(t *testing.T) {
	for _, c := range []struct {
		name                        string
		letters, bytes, fails, want int
	}{
		{"by number", 1300, 10, 1100, 1000},
		{"the last of one transaction", 1300, 10, 999, 500},
		{"the first of one transaction", 1300, 10, 1000, 1000},
		{"by size", 20, 200 << 10, 7, 6},
		{"each of its own if it is large", 5, 600 << 10, 3, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := open(t, t.TempDir())
			letters := make([]deadletter.Letter, c.letters)
			for i := range letters {
				letters[i] = deadletter.Letter{ID: fmt.Sprint(i), TenantID: "demo", Kind: deadletter.KindEvent, ReceivedAt: benchDay, Payload: make([]byte, c.bytes)}
			}
			mustExec(t, db, fmt.Sprintf(`CREATE TEMP TRIGGER refuse BEFORE INSERT ON dead_letters WHEN NEW.id = '%d' BEGIN SELECT RAISE(ABORT, 'a fault of the test'); END`, c.fails))
			count := func() int64 {
				t.Helper()
				n, err := db.DeadLetters().Count(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return n[deadletter.KindEvent]
			}
			if err := db.DeadLetters().Add(t.Context(), letters); err == nil || count() != int64(c.want) {
				t.Errorf("error %v, %d letters; want an error and %d", err, count(), c.want)
			}
			mustExec(t, db, `DROP TRIGGER refuse`)
			if err := db.DeadLetters().Add(t.Context(), letters); err != nil || count() != int64(c.letters) {
				t.Errorf("called again: error %v, %d letters; want %d", err, count(), c.letters)
			}
		})
	}
}
