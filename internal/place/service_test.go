package place

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"millrace/internal/audit"
)

// memory is a Store in memory: the rules of Put, no database.
type memory struct {
	places map[int64]Place
	change int64
	puts   []Put // as they came
	fail   error
}

func (m *memory) Put(_ context.Context, p Put) ([]PutResult, error) {
	m.puts = append(m.puts, p)
	if m.fail != nil {
		return nil, m.fail
	}
	if m.places == nil {
		m.places = map[int64]Place{}
	}
	results := make([]PutResult, len(p.Places))
	next := m.change + 1
	for i, one := range p.Places {
		before, there := m.places[one.ID]
		there = there && !before.Deleted
		same := before
		same.Version, same.Change, same.UpdatedAt = 0, 0, time.Time{}
		if one.Deleted && !there || there && cmp.Equal(same, one) {
			results[i].Place = before
			continue
		}
		one.Version, one.Change, one.UpdatedAt = before.Version+1, next, p.Now
		m.places[one.ID] = one
		m.change = next
		results[i] = PutResult{Place: one, Created: !there && !one.Deleted, Changed: true}
	}
	return results, nil
}

func (m *memory) Versions(context.Context) (map[string]int64, string, error) {
	return map[string]int64{Everywhere: m.change}, "", nil
}

func (m *memory) Load(_ context.Context, each func([]Place) error) error {
	for _, p := range m.places {
		if err := each([]Place{p}); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Changes(_ context.Context, _ string, after int64, _ int) ([]Place, bool, error) {
	var out []Place
	for _, p := range m.places {
		if p.Change > after {
			out = append(out, p)
		}
	}
	return out, false, nil
}

// render shows what a test wants to see of a place.
func render(p *Place, language, name string) []byte {
	return fmt.Appendf(nil, `{"id":%d,"language":%q,"name":%q,"version":%d,"names":%d}`, p.ID, language, name, p.Version, len(p.Names))
}

var testTime = time.Date(2026, 11, 22, 8, 30, 0, 0, time.UTC)

// newService returns a service on an index of its own, and what changes it tells.
func newService(t *testing.T, store Store) (*Service, *[]int64) {
	t.Helper()
	var wrote []int64
	s, err := New(Options{Store: store, Index: NewIndex(render), Now: func() time.Time { return testTime }, Wrote: func(scope string, change int64) {
		if scope != Everywhere {
			t.Errorf("wrote to %q", scope)
		}
		wrote = append(wrote, change)
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s, &wrote
}

// put puts places, all of which must be taken.
func put(t *testing.T, s *Service, places ...Place) []PutResult {
	t.Helper()
	results, errs, err := s.Put(t.Context(), Put{Places: places, TenantID: "demo"})
	if err := errors.Join(append(errs, err)...); err != nil {
		t.Fatal(err)
	}
	return results
}

func TestAServiceNeedsItsParts(t *testing.T) {
	for name, o := range map[string]Options{
		"no store":                {Index: NewIndex(render)},
		"a language that is none": {Store: &memory{}, Index: NewIndex(render), DefaultLanguage: "english"},
	} {
		if s, err := New(o); err == nil || s != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGoodPlacesArePutAndBadOnesAreTold(t *testing.T) {
	store := &memory{}
	s, wrote := newService(t, store)
	bad := munich()
	bad.ID, bad.Population = 7, -1
	padded := munich()
	padded.Names["en"] = " Munich "
	by := audit.Actor{Subject: "op"}
	results, errs, err := s.Put(t.Context(), Put{Places: []Place{bad, padded, {ID: 8, Deleted: true}}, TenantID: "acme", Actor: by})
	if err != nil {
		t.Fatal(err)
	}
	var invalid *InvalidError
	if !errors.As(errs[0], &invalid) || invalid.Field != "population" || errs[1] != nil || errs[2] != nil {
		t.Errorf("errors %v", errs)
	}
	want := munich()
	want.Version, want.Change, want.UpdatedAt = 1, 1, testTime
	if diff := cmp.Diff([]PutResult{{}, {Place: want, Created: true, Changed: true}, {}}, results); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Put{{Places: []Place{munich(), {ID: 8, Deleted: true}}, TenantID: "acme", Now: testTime, Actor: by}}, store.puts); diff != "" {
		t.Errorf("given to the store (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int64{1}, *wrote); diff != "" {
		t.Errorf("changes that were told: %s", diff)
	}
	l, err := s.Get(t.Context(), munich().ID, []string{"de"})
	if err != nil || string(l.Body) != `{"id":2867714,"language":"de","name":"München","version":1,"names":2}` || l.Place.Version != 1 || l.Place.Names != nil {
		t.Errorf("read at once: %+v, %v", l, err)
	}
	put(t, s, munich())
	if diff := cmp.Diff([]int64{1}, *wrote); diff != "" {
		t.Errorf("what is the same is told: %s", diff)
	}
}

func TestAfterAPutThatChangesNothingReadsAreNotOlderThanItsAnswer(t *testing.T) {
	store := &memory{}
	a, _ := newService(t, store)
	b, told := newService(t, store)
	b.o.Index.Apply([]Place{put(t, a, munich())[0].Place})
	more := munich()
	more.Population++
	put(t, a, more) // b does not hear of it
	if r := put(t, b, more)[0]; r.Changed || r.Place.Version != 2 || len(*told) > 0 {
		t.Fatalf("%+v, told %v", r, *told)
	}
	if l, err := b.Get(t.Context(), more.ID, nil); err != nil || l.Place.Version != 2 {
		t.Errorf("the answer tells of version 2, and then %+v is read, error %v", l, err)
	}
	gone := Place{ID: more.ID, Deleted: true}
	put(t, a, gone)
	put(t, b, gone)
	if _, err := b.Get(t.Context(), more.ID, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("what a delete found deleted is read: error %v", err)
	}
}

func TestAPlaceThatCannotBeReadIsShownToNobody(t *testing.T) {
	s, _ := newService(t, &memory{})
	p := put(t, s, munich())[0].Place
	bad := p
	bad.Unreadable, bad.Names, bad.Version, bad.Change = true, nil, 2, 2
	s.o.Index.Apply([]Place{bad})
	if l, err := s.Get(t.Context(), p.ID, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("it is read: %+v, error %v", l, err)
	}
	if found, err := s.Search(t.Context(), Query{}); err != nil || len(found) > 0 {
		t.Errorf("it is found: %+v, error %v", found, err)
	}
	p.Version, p.Change = 3, 3
	s.o.Index.Apply([]Place{p})
	if _, err := s.Get(t.Context(), p.ID, nil); err != nil {
		t.Errorf("put again: error %v", err)
	}
}

// The names of a place are replaced by others while it is read.
func TestAPlaceIsFoundWhileAllItsLanguagesAreReplaced(t *testing.T) {
	s, _ := newService(t, &memory{})
	state := func(change int64) Place {
		p := munich()
		p.Version, p.Change, p.Names = change, change, map[string]string{}
		for _, language := range [][]string{{"it", "nl", "da", "sv", "fi", "pl", "cs"}, {"ja", "ko", "vi", "th", "tr", "el", "uk"}}[change%2] {
			p.Names[language] = fmt.Sprint("Munich ", change)
		}
		return p
	}
	s.o.Index.Apply([]Place{state(1)})
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.Get(t.Context(), munich().ID, nil); err != nil {
					t.Errorf("a place that is always there: error %v", err)
					return
				}
			}
		})
	}
	for change := range int64(10_000) {
		s.o.Index.Apply([]Place{state(change + 2)})
	}
	close(stop)
	readers.Wait()
}

func TestNothingIsAskedOfTheStoreForBadPlacesAlone(t *testing.T) {
	store := &memory{fail: errors.New("must not be asked")}
	s, wrote := newService(t, store)
	_, errs, err := s.Put(t.Context(), Put{Places: []Place{{}, {ID: 1}}})
	if err != nil || errs[0] == nil || errs[1] == nil || len(store.puts) > 0 || len(*wrote) > 0 {
		t.Errorf("%v, %v, %d puts", errs, err, len(store.puts))
	}
	_, _, err = s.Put(t.Context(), Put{Places: make([]Place, MaxPuts+1)})
	var invalid *InvalidError
	if !errors.As(err, &invalid) || invalid.Field != "places" || !strings.Contains(invalid.Detail, "there are 501 places") {
		t.Errorf("too many at once: %v", err)
	}
}

func TestAFailedWriteShowsNothing(t *testing.T) {
	gone := errors.New("the database is away")
	s, wrote := newService(t, &memory{fail: gone})
	if _, _, err := s.Put(t.Context(), Put{Places: []Place{munich()}}); !errors.Is(err, gone) || len(*wrote) > 0 {
		t.Errorf("%v, told %v", err, *wrote)
	}
	if _, err := s.Get(t.Context(), munich().ID, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("read: %v", err)
	}
}

func TestNobodyReadsWhilePlacesAreLoaded(t *testing.T) {
	loading := errors.New("loading: 40,000 records")
	s, err := New(Options{Store: &memory{}, Index: NewIndex(render), Ready: func() error { return loading }})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, munich())
	if _, err := s.Get(t.Context(), munich().ID, nil); !errors.Is(err, ErrLoading) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Search(t.Context(), Query{}); !errors.Is(err, ErrLoading) {
		t.Errorf("search: %v", err)
	}
	loading = nil
	if _, err := s.Get(t.Context(), munich().ID, nil); err != nil {
		t.Errorf("get, loaded: %v", err)
	}
}

func TestPlacesAreWrittenWhereNobodyReads(t *testing.T) {
	store := &memory{}
	s, err := New(Options{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	if results := put(t, s, munich()); !results[0].Created || len(store.places) != 1 {
		t.Errorf("%+v", results)
	}
	if _, err := s.Get(t.Context(), munich().ID, nil); !errors.Is(err, ErrLoading) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Search(t.Context(), Query{}); !errors.Is(err, ErrLoading) {
		t.Errorf("search: %v", err)
	}
}

func TestAPlaceIsInTheBestLanguageThatItHas(t *testing.T) {
	s, _ := newService(t, &memory{})
	city := func(id int64, names map[string]string) Place {
		return Place{ID: id, Kind: City, CountryCode: "DE", Names: names}
	}
	put(t, s, munich(), city(2, map[string]string{"zh-Hant": "臺北", "zh": "台北", "en": "Taipei"}), city(3, map[string]string{"ja": "東京", "fr": "Tokyo"}))
	for _, c := range []struct {
		name      string
		id        int64
		languages []string
		want      string // the language
	}{
		{"the one that is asked for", munich().ID, []string{"de"}, "de"},
		{"the first of several", munich().ID, []string{"en", "de"}, "en"},
		{"the next if it lacks the first", munich().ID, []string{"fr", "de", "en"}, "de"},
		{"a parent", munich().ID, []string{"de-AT"}, "de"},
		{"a parent before the next", munich().ID, []string{"de-AT", "en"}, "de"},
		{"a parent of a parent", munich().ID, []string{"de-Latn-AT"}, "de"},
		{"a script before the language", 2, []string{"zh-Hant-TW"}, "zh-Hant"},
		{"the script of a region", 2, []string{"zh-TW"}, "zh-Hant"},
		{"the language without its script", 2, []string{"zh-Hans-CN"}, "zh"},
		{"the default if none is asked for", munich().ID, nil, "en"},
		{"the default if it lacks those asked for", munich().ID, []string{"fr"}, "en"},
		{"the default for what is no language", munich().ID, []string{"*", "english"}, "en"},
		{"any if it lacks the default", 3, []string{"de"}, "fr"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := s.Get(t.Context(), c.id, c.languages)
			if err != nil || l.Key != (Key{ID: c.id, Language: c.want}) {
				t.Errorf("%+v, %v; want %s", l, err, c.want)
			}
		})
	}
	if _, err := s.Get(t.Context(), 4, []string{"de"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown id: %v", err)
	}
}

func TestADeletedPlaceIsGoneAndCanBeMadeAgain(t *testing.T) {
	s, wrote := newService(t, &memory{})
	put(t, s, munich())
	old, err := s.Get(t.Context(), munich().ID, []string{"de"})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, Place{ID: munich().ID, Deleted: true})
	for _, languages := range [][]string{nil, {"de"}, {"fr"}} {
		if l, err := s.Get(t.Context(), munich().ID, languages); !errors.Is(err, ErrNotFound) {
			t.Errorf("%v: %+v, %v", languages, l, err)
		}
	}
	for _, q := range []Query{{}, {Prefix: "m"}, {CountryCode: "DE"}, {Prefix: "mun", CountryCode: "DE"}} {
		if found, err := s.Search(t.Context(), q); err != nil || len(found) > 0 {
			t.Errorf("%+v finds %v, %v", q, found, err)
		}
	}
	again := munich()
	delete(again.Names, "de")
	put(t, s, again)
	l, err := s.Get(t.Context(), munich().ID, []string{"de"})
	if err != nil || l.Key.Language != "en" || l.Place.Version != old.Place.Version+2 {
		t.Errorf("made again without German: %+v, %v", l, err)
	}
	if diff := cmp.Diff([]int64{1, 2, 3}, *wrote); diff != "" {
		t.Error(diff)
	}
}

func TestALanguageThatIsDroppedIsGone(t *testing.T) {
	s, _ := newService(t, &memory{})
	put(t, s, munich())
	less := munich()
	delete(less.Names, "de")
	put(t, s, less)
	if l, err := s.Get(t.Context(), munich().ID, []string{"de"}); err != nil || l.Key.Language != "en" {
		t.Errorf("%+v, %v", l, err)
	}
	if found, err := s.Search(t.Context(), Query{Prefix: "münc", Languages: []string{"de"}}); err != nil || len(found) > 0 {
		t.Errorf("the German name finds %v, %v", found, err)
	}
	put(t, s, munich())
	if l, err := s.Get(t.Context(), munich().ID, []string{"de"}); err != nil || l.Name != "München" {
		t.Errorf("it comes back: %+v, %v", l, err)
	}
}

func TestThePutIsAuditedOnce(t *testing.T) {
	results := []PutResult{{Changed: true}, {Changed: true}, {Place: Place{Deleted: true}, Changed: true}, {}}
	entry, err := PutEntry("acme", results, testTime, audit.Actor{Subject: "op"})
	if err != nil {
		t.Fatal(err)
	}
	want := audit.Entry{TenantID: "acme", At: testTime, Actor: audit.Actor{Subject: "op"}, Action: "places.put", Object: "places", After: []byte(`{"put":2,"deleted":1}`)}
	if diff := cmp.Diff(want, entry, cmpopts.IgnoreFields(audit.Entry{}, "ID")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
