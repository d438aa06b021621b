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

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"millrace/internal/audit"
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

// ann is who operates.
var ann = audit.Actor{Subject: "ann", Method: "operator", RequestID: "r1"}

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
	if _, err := s.Redrive(t.Context(), "demo", "1", nil, ann); err != nil {
		t.Fatal(err)
	}
	if len(m.letters) != 0 || r.accepted["1 good"] != 1 {
		t.Errorf("left %v, accepted %v", m.letters, r.accepted)
	}
	if _, err := s.Redrive(t.Context(), "demo", "1", nil, ann); !errors.Is(err, ErrNotFound) {
		t.Errorf("again: %v", err)
	}
}

func TestAReplacementGoesInPlaceOfThePayload(t *testing.T) {
	s, m, r := newService(letter("1", "bad"))
	if _, err := s.Redrive(t.Context(), "demo", "1", []byte("mended"), ann); err != nil || r.accepted["1 mended"] != 1 || len(m.letters) != 0 {
		t.Errorf("%v, accepted %v, left %v", err, r.accepted, m.letters)
	}
}

func TestARefusalIsCountedOnTheLetterAndAFailureIsNot(t *testing.T) {
	s, m, _ := newService(letter("2", "bad"), letter("1", "away"))
	var rejected *RejectedError
	if _, err := s.Redrive(t.Context(), "demo", "2", nil, ann); !errors.As(err, &rejected) {
		t.Fatalf("error %v", err)
	}
	if l := m.letters[0]; l.Attempts != 2 || l.Reason != "still bad" || !l.LastAttemptAt.Equal(now) {
		t.Errorf("letter %+v", l)
	}
	if _, err := s.Redrive(t.Context(), "demo", "1", nil, ann); !errors.Is(err, errAway) || m.letters[1].Attempts != 1 {
		t.Errorf("error %v, letter %+v", err, m.letters[1])
	}
}

func TestATruncatedLetterNeedsAReplacement(t *testing.T) {
	l := letter("1", "begin")
	l.Truncated = true
	s, m, r := newService(l)
	if _, err := s.Redrive(t.Context(), "demo", "1", nil, ann); !errors.Is(err, ErrTruncated) || len(r.accepted) != 0 {
		t.Errorf("error %v, accepted %v", err, r.accepted)
	}
	if _, err := s.Redrive(t.Context(), "demo", "1", []byte("whole"), ann); err != nil || len(m.letters) != 0 {
		t.Errorf("with a replacement: %v", err)
	}
}

func TestAnotherTenantsLetterIsNotThere(t *testing.T) {
	s, m, r := newService(letter("1", "good"))
	if _, err := s.Redrive(t.Context(), "other", "1", nil, ann); !errors.Is(err, ErrNotFound) {
		t.Errorf("redrive: %v", err)
	}
	if err := s.Delete(t.Context(), "other", "1", ann); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete: %v", err)
	}
	if sum, err := s.RedriveAll(t.Context(), Filter{TenantID: "other"}, 10, ann); err != nil || sum.Done != 0 {
		t.Errorf("redrive all: %+v, %v", sum, err)
	}
	if len(m.letters) != 1 || len(r.accepted) != 0 {
		t.Errorf("left %v, accepted %v", m.letters, r.accepted)
	}
}

func TestALetterThatCannotBeRemovedAsksToDoItAgain(t *testing.T) {
	s, m, _ := newService(letter("1", "good"))
	m.failing = errAway
	if _, err := s.Redrive(t.Context(), "demo", "1", nil, ann); !errors.Is(err, errAway) {
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
	sum, err := s.RedriveAll(t.Context(), Filter{TenantID: "demo"}, 1000, ann)
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
	if sum, err := s.RedriveAll(t.Context(), Filter{TenantID: "demo"}, 30, ann); err != nil || sum != (Summary{Done: 20, Failed: 10, More: true}) {
		t.Errorf("redrive: %+v, %v", sum, err)
	}
	if sum, err := s.DeleteAll(t.Context(), Filter{TenantID: "demo"}, 250, ann); err != nil || sum != (Summary{Done: 250, More: true}) || len(m.letters) != 30 {
		t.Errorf("delete: %+v, %v, %d left", sum, err, len(m.letters))
	}
	if sum, err := s.DeleteAll(t.Context(), Filter{TenantID: "demo"}, 30, ann); err != nil || sum != (Summary{Done: 30}) {
		t.Errorf("delete the rest: %+v, %v", sum, err)
	}
}

func TestAFailureEndsRedrivingByFilter(t *testing.T) {
	letters := append(many(2), letter("0000", "away"))
	slices.Reverse(letters)
	s, m, _ := newService(letters...)
	if _, err := s.RedriveAll(t.Context(), Filter{TenantID: "demo"}, 10, ann); !errors.Is(err, errAway) || len(m.letters) != 3 {
		t.Errorf("%v, %d left", err, len(m.letters))
	}
}

// recorder is an AuditLog that remembers how many letters were left when it was
// asked to record, and can fail.
type recorder struct {
	letters *memory
	entries []audit.Entry
	left    []int
	err     error
}

func (r *recorder) Record(_ context.Context, entries []audit.Entry) error {
	if r.err != nil {
		return r.err
	}
	r.left = append(r.left, len(r.letters.letters))
	r.entries = append(r.entries, entries...)
	return nil
}

func newAudited(letters ...Letter) (*Service, *memory, *recorder) {
	s, m, _ := newService(letters...)
	r := &recorder{letters: m}
	return s.WithAudit(r), m, r
}

func TestWhatOperatorsDoIsRecordedBeforeItIsDone(t *testing.T) {
	refused, lost := letter("2", "bad"), letter("1", "secret")
	lost.Reason, lost.Source, lost.Type, lost.EventID, lost.BatchID, lost.ReceivedAt = "no type", "till", "sale", "e1", "b1", now
	s, m, r := newAudited(letter("3", "good"), refused, lost)
	if _, err := s.Redrive(t.Context(), "demo", "3", nil, ann); err != nil {
		t.Fatal(err)
	}
	var rejected *RejectedError
	if _, err := s.Redrive(t.Context(), "demo", "2", []byte("bad"), ann); !errors.As(err, &rejected) {
		t.Fatalf("error %v", err)
	}
	if err := s.Delete(t.Context(), "demo", "1", ann); err != nil || len(m.letters) != 1 {
		t.Fatalf("error %v, %d left", err, len(m.letters))
	}
	const plain = `{"kind":"event","reason":"","receivedAt":"0001-01-01T00:00:00Z","attempts":1}`
	want := []audit.Entry{
		{TenantID: "demo", At: now, Actor: ann, Action: "dead-letter.redrive", Object: "dead-letter/3", Before: []byte(plain), After: []byte(`{"replaced":false}`)},
		{TenantID: "demo", At: now, Actor: ann, Action: "dead-letter.redrive", Object: "dead-letter/2", Before: []byte(plain), After: []byte(`{"replaced":true}`)},
		{TenantID: "demo", At: now, Actor: ann, Action: "dead-letter.delete", Object: "dead-letter/1",
			Before: []byte(`{"kind":"event","reason":"no type","source":"till","type":"sale","eventId":"e1","batchId":"b1","receivedAt":"2026-11-22T12:00:00Z","attempts":1}`)},
	}
	if diff := cmp.Diff(want, r.entries, cmpopts.IgnoreFields(audit.Entry{}, "ID")); diff != "" {
		t.Errorf("entries differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int{3, 2, 2}, r.left); diff != "" {
		t.Errorf("letters left when it was recorded (-want +got):\n%s", diff)
	}
}

func TestWhatIsNotDoneIsNotRecorded(t *testing.T) {
	l := letter("1", "begin")
	l.Truncated = true
	s, _, r := newAudited(l)
	if _, err := s.Redrive(t.Context(), "demo", "1", nil, ann); !errors.Is(err, ErrTruncated) {
		t.Errorf("error %v", err)
	}
	for _, err := range []error{s.Delete(t.Context(), "other", "1", ann), s.Delete(t.Context(), "demo", "9", ann)} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("error %v", err)
		}
	}
	if sum, err := s.DeleteAll(t.Context(), Filter{TenantID: "other"}, 10, ann); err != nil || sum != (Summary{}) {
		t.Errorf("%+v, %v", sum, err)
	}
	if len(r.entries) != 0 {
		t.Errorf("recorded %+v", r.entries)
	}
}

func TestWorkByFilterIsRecordedByPage(t *testing.T) {
	s, _, r := newAudited(many(250)...)
	if sum, err := s.DeleteAll(t.Context(), Filter{TenantID: "demo"}, 230, ann); err != nil || sum.Done != 230 {
		t.Fatalf("%+v, %v", sum, err)
	}
	if diff := cmp.Diff([]int{250, 150, 50}, r.left); diff != "" || len(r.entries) != 230 {
		t.Errorf("%d entries, letters left when they were recorded (-want +got):\n%s", len(r.entries), diff)
	}
	if sum, err := s.RedriveAll(t.Context(), Filter{TenantID: "demo"}, 100, ann); err != nil || len(r.entries) != 250 {
		t.Errorf("%+v, %v, %d entries", sum, err, len(r.entries))
	}
}

func TestNothingIsDoneThatCannotBeRecorded(t *testing.T) {
	s, m, r := newAudited(letter("1", "good"))
	r.err = errAway
	_, redriven := s.Redrive(t.Context(), "demo", "1", nil, ann)
	_, redrivenAll := s.RedriveAll(t.Context(), Filter{TenantID: "demo"}, 10, ann)
	_, deletedAll := s.DeleteAll(t.Context(), Filter{TenantID: "demo"}, 10, ann)
	for _, err := range []error{redriven, redrivenAll, deletedAll, s.Delete(t.Context(), "demo", "1", ann)} {
		if !errors.Is(err, errAway) {
			t.Errorf("error %v, want the log's", err)
		}
	}
	if len(m.letters) != 1 || m.letters[0].Attempts != 1 {
		t.Errorf("left %+v", m.letters)
	}
}
