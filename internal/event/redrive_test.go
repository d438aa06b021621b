package event

import (
	"errors"
	"strings"
	"testing"
	"time"

	"millrace/internal/deadletter"
)

func TestAnEventTheDatabaseRefusedCanBeMendedAndRedriven(t *testing.T) {
	b := newBench(t)
	b.store.refuses = func(r Row) bool { return strings.Contains(r.Payload, "poison") }
	b.run()
	if _, err := b.in.Ingest(t.Context(), Submission{TenantID: "demo", Body: []byte(`[{"id":"x","type":"t","payload":"poison"}]`)}); err != nil {
		t.Fatal(err)
	}
	b.settle()
	letters := b.letters.all()
	if len(letters) != 1 {
		t.Fatalf("letters %+v", letters)
	}
	r := Redriver{Ingester: b.in, Store: b.store, Commits: b.sink}
	if err := r.Redrive(t.Context(), letters[0], []byte(`{"id":"x","type":"t","payload":"mended"}`)); err != nil {
		t.Fatal(err)
	}
	b.settle()
	b.wantIDs("x")
}

func TestARedriveThatIsRepeatedBeforeTheStoreHasItStoresOnce(t *testing.T) {
	b := newBench(t)
	b.in.o.Window = nil // nothing but the store can tell
	b.run()
	r := Redriver{Ingester: b.in, Store: b.store, Commits: b.sink}
	l := deadletter.Letter{ID: "0198c0de-0000-7000-8000-000000000001", TenantID: "demo", Kind: deadletter.KindEvent}
	for range 2 { // the second as after a crash between redriving and removing
		if err := r.Redrive(t.Context(), l, []byte(`{"type":"mended"}`)); err != nil {
			t.Fatal(err)
		}
	}
	b.settle()
	b.wantIDs(l.ID)
}

func TestARedriveFindsTheStoredEventOfItsOwnSource(t *testing.T) {
	b := newBench(t)
	b.run()
	if _, err := b.in.Ingest(t.Context(), Submission{TenantID: "demo", Body: []byte(`[{"id":"1","type":"t","source":"A"},{"id":"1","type":"t","source":"B"}]`)}); err != nil {
		t.Fatal(err)
	}
	b.settle()
	b.clock.Set(noon.Add(time.Hour)) // beyond the window
	r := Redriver{Ingester: b.in, Store: b.store, Commits: b.sink}
	for _, source := range []string{"A", "B", "C"} {
		payload := []byte(`{"id":"1","type":"t","source":"` + source + `"}`)
		if err := r.Redrive(t.Context(), deadletter.Letter{ID: "l", TenantID: "demo", Kind: deadletter.KindEvent}, payload); err != nil {
			t.Fatal(err)
		}
	}
	b.settle()
	b.wantIDs("1", "1", "1") // A, B, and the new C
}

func TestADeliveryWithoutATypeCannotBeRedriven(t *testing.T) {
	b := newBench(t)
	b.run()
	r := Redriver{Ingester: b.in, Store: b.store, Commits: b.sink}
	var rejected *deadletter.RejectedError
	l := deadletter.Letter{ID: "l", TenantID: "demo", Kind: deadletter.KindWebhook, EventID: "evt_1", Source: "pay"}
	if err := r.Redrive(t.Context(), l, []byte(`{"id":"evt_1"}`)); !errors.As(err, &rejected) {
		t.Errorf("error %v, want a rejection", err)
	}
}

func TestADeliveryIsRedrivenOnlyWithOneWholePayload(t *testing.T) {
	b := newBench(t)
	b.run()
	r := Redriver{Ingester: b.in, Store: b.store, Commits: b.sink}
	l := deadletter.Letter{ID: "l", TenantID: "demo", Kind: deadletter.KindWebhook, EventID: "evt_1", Type: "t", Source: "pay"}
	var rejected *deadletter.RejectedError
	for _, payload := range []string{`1},{"type":"smuggled","payload":2`, `{"half":`, `"\u0000"`} {
		if err := r.Redrive(t.Context(), l, []byte(payload)); !errors.As(err, &rejected) {
			t.Errorf("%s: error %v, want a rejection", payload, err)
		}
	}
	if err := r.Redrive(t.Context(), l, []byte(`{"whole":true}`)); err != nil {
		t.Fatal(err)
	}
	b.settle()
	b.wantIDs("evt_1")
}

func TestTwoRefusedEventsOfOneIdentityAreTwoLetters(t *testing.T) {
	b := newBench(t)
	b.in.o.Window = nil
	b.store.refuses = func(Row) bool { return true }
	b.run()
	if _, err := b.in.Ingest(t.Context(), Submission{TenantID: "demo", Body: []byte(`[{"id":"x","type":"t","payload":1},{"id":"x","type":"t","payload":2}]`)}); err != nil {
		t.Fatal(err)
	}
	b.settle()
	if n := len(b.letters.all()); n != 2 {
		t.Errorf("%d letters, want 2", n)
	}
}
