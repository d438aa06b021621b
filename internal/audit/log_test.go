package audit

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 123456789, time.UTC)

// memory is a Store that keeps what it is given.
type memory struct {
	Store
	entries []Entry
	err     error
}

func (m *memory) Record(_ context.Context, entries []Entry) error {
	if m.err != nil {
		return m.err
	}
	m.entries = append(m.entries, entries...)
	return nil
}

func TestAnEntryHasBeforeAndAfterAsJSON(t *testing.T) {
	type level struct {
		OnHand int `json:"onHand"`
	}
	var nothing *level
	by := Actor{Subject: "ann", Method: "jwt", RequestID: "r1"}
	got, err := NewEntry("demo", noon, by, "stock.set", "stock/a", nothing, level{7})
	if err != nil {
		t.Fatal(err)
	}
	want := Entry{ID: got.ID, TenantID: "demo", At: noon, Actor: by, Action: "stock.set", Object: "stock/a", After: json.RawMessage(`{"onHand":7}`)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entry differs (-want +got):\n%s", diff)
	}
	if _, err := NewEntry("demo", noon, by, "a", "b", math.NaN(), nil); err == nil {
		t.Error("what cannot be written as JSON before is taken")
	}
	if _, err := NewEntry("demo", noon, by, "a", "b", nil, func() {}); err == nil {
		t.Error("what cannot be written as JSON after is taken")
	}
}

func TestIDsAreUUIDv7InTheOrderOfTime(t *testing.T) {
	last := ""
	for i := range 10_000 {
		at := noon.Add(time.Duration(i) * 250 * time.Nanosecond)
		id := NewID(at)
		if id <= last {
			t.Fatalf("id %s of step %d does not follow %s", id, i, last)
		}
		if first := FirstID(at); id < first {
			t.Fatalf("id %s is below the first of its time, %s", id, first)
		}
		last = id
	}
	id := uuid.MustParse(last)
	if id.Version() != 7 || id.Variant() != uuid.RFC4122 {
		t.Errorf("%s has version %d and variant %s", last, id.Version(), id.Variant())
	}
	sec, ns := id.Time().UnixTime()
	at := noon.Add(9999 * 250 * time.Nanosecond)
	if got := time.Unix(sec, ns); got.UnixMilli() != at.UnixMilli() {
		t.Errorf("%s is of %v, want %v", last, got, at)
	}
	if a, b := NewID(noon), NewID(noon); a == b {
		t.Error("two ids of one time are the same")
	}
}

func TestAnIDOfATimeThatDoesNotFitIsTheNearest(t *testing.T) {
	early, late := FirstID(time.Date(1960, 1, 1, 0, 0, 0, 5, time.UTC)), FirstID(time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC))
	if early != "00000000-0000-7000-8000-000000000000" || late != "ffffffff-ffff-7fff-8000-000000000000" {
		t.Errorf("early %s, late %s", early, late)
	}
}

func TestRecordCompletesEntriesAndRefusesHalfOnes(t *testing.T) {
	store := &memory{}
	log := NewLog(store, func() time.Time { return noon })
	given := []Entry{{TenantID: "demo", Action: "a", Object: "b"}, {ID: "x", TenantID: "demo", Action: "a", Object: "b", At: noon.Add(time.Hour)}}
	if err := log.Record(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	if e := store.entries[0]; !e.At.Equal(noon) || e.ID < FirstID(noon) || e.ID >= FirstID(noon.Add(time.Microsecond)) {
		t.Errorf("completed as %+v", e)
	}
	if diff := cmp.Diff(given[1], store.entries[1]); diff != "" {
		t.Errorf("a complete entry was changed (-want +got):\n%s", diff)
	}
	if given[0].ID != "" {
		t.Error("the caller's entry was changed")
	}
	for _, half := range []Entry{{Action: "a", Object: "b"}, {TenantID: "demo", Object: "b"}, {TenantID: "demo", Action: "a"}} {
		if err := log.Record(t.Context(), []Entry{given[0], half}); err == nil || len(store.entries) != 2 {
			t.Errorf("%+v: error %v, %d entries kept", half, err, len(store.entries))
		}
	}
	store.err = errors.New("the disk is full")
	if err := log.Record(t.Context(), given); !errors.Is(err, store.err) {
		t.Errorf("error %v, want the store's", err)
	}
}
