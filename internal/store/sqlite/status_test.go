package sqlite

import (
	"testing"
	"time"
)

func TestStatusTellsWhichMigrationsWereApplied(t *testing.T) {
	dir := t.TempDir()
	before, err := Status(t.Context(), dir)
	if err != nil || len(before) < 3 || before[0].Version != 1 || before[0].Name != "dead_letters_and_api_keys" || !before[0].AppliedAt.IsZero() {
		t.Fatalf("of a new directory: %+v, %v", before, err)
	}
	began := time.Now().Add(-2 * time.Second)
	db := open(t, dir)
	after, err := Status(t.Context(), dir) // beside the open store
	if err != nil || len(after) != len(before) {
		t.Fatalf("%+v, %v", after, err)
	}
	for _, m := range after {
		if m.AppliedAt.Before(began) || m.AppliedAt.After(time.Now().Add(2*time.Second)) {
			t.Errorf("%d %s was applied at %s", m.Version, m.Name, m.AppliedAt)
		}
	}
	_ = db
}
