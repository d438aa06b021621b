package deadletter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"testing"
	"time"
)

// memory is a Store of letters in order, newest first.
type memory struct {
	Store
	letters []Letter
	failing error // of Delete
}

func (m *memory) find(id string) int {
	return slices.IndexFunc(m.letters, func(l Letter) bool { return l.ID == id })
}

func (m *memory) Get(_ context.Context, tenantID, id string) (Letter, error) {
	if i := m.find(id); i >= 0 && m.letters[i].TenantID == tenantID {
		return m.letters[i], nil
	}
	return Letter{}, ErrNotFound
}

func (m *memory) List(_ context.Context, f Filter, limit int, cursor string) (page []Letter, next string, err error) {
	for _, l := range m.letters {
		if l.TenantID != f.TenantID || cursor != "" && l.ID >= cursor {
			continue
		}
		if len(page) == limit {
			return page, page[limit-1].ID, nil
		}
		page = append(page, l)
	}
	return page, "", nil
}

func (m *memory) Delete(_ context.Context, tenantID, id string) error {
	if m.failing != nil {
		return m.failing
	}
	i := m.find(id)
	if i < 0 || m.letters[i].TenantID != tenantID {
		return ErrNotFound
	}
	m.letters = slices.Delete(m.letters, i, i+1)
	return nil
}

func (m *memory) RecordAttempt(_ context.Context, _, id string, at time.Time, reason string) error {
	l := &m.letters[m.find(id)]
	l.Attempts++
	l.LastAttemptAt, l.Reason = at, reason
	return nil
}

// redriver refuses or fails as the payload says, and counts what it accepted.
type redriver struct{ accepted map[string]int }

var errAway = errors.New("the log is away")

func (r redriver) Redrive(_ context.Context, l Letter, payload []byte) error {
	switch string(payload) {
	case "bad":
		return &RejectedError{Reason: "still bad"}
	case "away":
		return errAway
	}
	r.accepted[l.ID+" "+string(payload)]++
	return nil
}

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newService(letters ...Letter) (*Service, *memory, redriver) {
	m, r := &memory{letters: letters}, redriver{map[string]int{}}
	return NewService(m, r, func() time.Time { return now }, slog.New(slog.DiscardHandler)), m, r
}

func letter(id, payload string) Letter {
	return Letter{ID: id, TenantID: "demo", Kind: KindEvent, Attempts: 1, Payload: []byte(payload)}
}

func TestARedrivenLetterIsGone(t *testing.T) {
	s, m, r := newService(letter("1", "good"))
	if _, err := s.Redrive(t.Context(), "demo", "1", nil); err != nil {
		t.Fatal(err)
	}
	if len(m.letters) != 0 || r.accepted["1 good"] != 1 {
		t.Errorf("left %v, accepted %v", m.letters, r.accepted)
	}
	if _, err := s.Redrive(t.Context(), "demo", "1", nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("again: %v", err)
	}
}

func TestAReplacementGoesInPlaceOfThePayload(t *testing.T) {
	s, m, r := newService(letter("1", "bad"))
	if _, err := s.Redrive(t.Context(), "demo", "1", []byte("mended")); err != nil || r.accepted["1 mended"] != 1 || len(m.letters) != 0 {
		t.Errorf("%v, accepted %v, left %v", err, r.accepted, m.letters)
	}
}

func TestARefusalIsCountedOnTheLetterAndAFailureIsNot(t *testing.T) {
	s, m, _ := newService(letter("2", "bad"), letter("1", "away"))
	var rejected *RejectedError
	if _, err := s.Redrive(t.Context(), "demo", "2", nil); !errors.As(err, &rejected) {
		t.Fatalf("error %v", err)
	}
	if l := m.letters[0]; l.Attempts != 2 || l.Reason != "still bad" || !l.LastAttemptAt.Equal(now) {
		t.Errorf("letter %+v", l)
	}
	if _, err := s.Redrive(t.Context(), "demo", "1", nil); !errors.Is(err, errAway) || m.letters[1].Attempts != 1 {
		t.Errorf("error %v, letter %+v", err, m.letters[1])
	}
}

func TestATruncatedLetterNeedsAReplacement(t *testing.T) {
	l := letter("1", "begin")
	l.Truncated = true
	s, m, r := newService(l)
	if _, err := s.Redrive(t.Context(), "demo", "1", nil); !errors.Is(err, ErrTruncated) || len(r.accepted) != 0 {
		t.Errorf("error %v, accepted %v", err, r.accepted)
	}
	if _, err := s.Redrive(t.Context(), "demo", "1", []byte("whole")); err != nil || len(m.letters) != 0 {
		t.Errorf("with a replacement: %v", err)
	}
}

func TestAnotherTenantsLetterIsNotThere(t *testing.T) {
	s, m, r := newService(letter("1", "good"))
	if _, err := s.Redrive(t.Context(), "other", "1", nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("redrive: %v", err)
	}
	if err := s.Delete(t.Context(), "other", "1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete: %v", err)
	}
	if sum, err := s.RedriveAll(t.Context(), Filter{TenantID: "other"}, 10); err != nil || sum.Done != 0 {
		t.Errorf("redrive all: %+v, %v", sum, err)
	}
	if len(m.letters) != 1 || len(r.accepted) != 0 {
		t.Errorf("left %v, accepted %v", m.letters, r.accepted)
	}
}

func TestALetterThatCannotBeRemovedAsksToDoItAgain(t *testing.T) {
	s, m, _ := newService(letter("1", "good"))
	m.failing = errAway
	if _, err := s.Redrive(t.Context(), "demo", "1", nil); !errors.Is(err, errAway) {
		t.Errorf("error %v", err)
	}
}

// many returns n letters, newest first; every third is bad.
func many(n int) (letters []Letter) {
	for i := n; i > 0; i-- {
		payload := "good"
		if i%3 == 0 {
			payload = "bad"
		}
		letters = append(letters, letter(fmt.Sprintf("%04d", i), payload))
	}
	return letters
}

func TestRedrivingByFilterTriesEachLetterOnce(t *testing.T) {
	s, m, r := newService(many(300)...)
	sum, err := s.RedriveAll(t.Context(), Filter{TenantID: "demo"}, 1000)
	if err != nil || sum != (Summary{Done: 200, Failed: 100}) {
		t.Errorf("%+v, %v", sum, err)
	}
	if len(m.letters) != 100 || len(r.accepted) != 200 {
		t.Errorf("%d left, %d accepted", len(m.letters), len(r.accepted))
	}
	for _, l := range m.letters {
		if n, _ := strconv.Atoi(l.ID); n%3 != 0 || l.Attempts != 2 {
			t.Fatalf("left %+v", l)
		}
	}
}

func TestTheLimitEndsRedrivingAndDeleting(t *testing.T) {
	s, m, _ := newService(many(300)...)
	if sum, err := s.RedriveAll(t.Context(), Filter{TenantID: "demo"}, 30); err != nil || sum != (Summary{Done: 20, Failed: 10, More: true}) {
		t.Errorf("redrive: %+v, %v", sum, err)
	}
	if sum, err := s.DeleteAll(t.Context(), Filter{TenantID: "demo"}, 250); err != nil || sum != (Summary{Done: 250, More: true}) || len(m.letters) != 30 {
		t.Errorf("delete: %+v, %v, %d left", sum, err, len(m.letters))
	}
	if sum, err := s.DeleteAll(t.Context(), Filter{TenantID: "demo"}, 30); err != nil || sum != (Summary{Done: 30}) {
		t.Errorf("delete the rest: %+v, %v", sum, err)
	}
}

func TestAFailureEndsRedrivingByFilter(t *testing.T) {
	letters := append(many(2), letter("0000", "away"))
	slices.Reverse(letters)
	s, m, _ := newService(letters...)
	if _, err := s.RedriveAll(t.Context(), Filter{TenantID: "demo"}, 10); !errors.Is(err, errAway) || len(m.letters) != 3 {
		t.Errorf("%v, %d left", err, len(m.letters))
	}
}
