package place

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unique"
	"unsafe"

	"github.com/cespare/xxhash/v2"

	"millrace/internal/memindex"
)

// record is a place without its names.
type record struct {
	Place
	// languages are the tags of its names in their order, each with a space behind it.
	languages string
	rank      int64 // rankOf
}

func (r *record) has(language string) bool {
	for tag := range strings.FieldsSeq(r.languages) {
		if tag == language {
			return true
		}
	}
	return false
}

// region is a part of all places. Where a member is empty it is all.
type region struct {
	country string
	kind    Kind
}

// tables hold one load of all places.
type tables struct {
	names    *memindex.Table[Key, Localized]
	prefixes *memindex.Prefixes[Localized]
	places   *memindex.Table[int64, record] // with tombstones
	regions  *memindex.Groups[region, record]
}

func newTables() *tables {
	t := &tables{}
	t.names = memindex.New(func(l *Localized) Key { return l.Key }, memindex.Options[Localized]{
		Name:       "place_names",
		Supersedes: func(old, next *Localized) bool { return newer(old.Place, next.Place) },
		Live:       func(l *Localized) bool { return !l.gone },
		Bytes:      localizedBytes,
	})
	t.prefixes = memindex.AddPrefixes(t.names,
		func(l *Localized, add func(string)) { add(l.search) },
		func(a, b *Localized) int {
			return cmp.Or(byRank(a, b), strings.Compare(a.Key.Language, b.Key.Language))
		})
	t.places = memindex.New(func(r *record) int64 { return r.ID }, memindex.Options[record]{
		Name:       "places",
		Supersedes: func(old, next *record) bool { return newer(&old.Place, &next.Place) },
		Live:       func(r *record) bool { return !r.Deleted },
		Bytes:      func(*record) int { return int(unsafe.Sizeof(record{})) },
	})
	t.regions = memindex.AddGroups(t.places,
		func(r *record, add func(region)) {
			add(region{})
			add(region{country: r.CountryCode})
			if r.Kind == Country { // of cities there are so many that all are looked at
				add(region{kind: Country})
			}
		},
		func(a, b *record) int { return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(a.ID, b.ID)) })
	return t
}

// Index keeps all places in memory, one record for each place and language and one
// for each place, and finds them by id and language, by country and by how their
// names begin. Deleted places stay as tombstones and are never purged, in the Store
// neither: one takes about 190 bytes here, and until the next load 130 for each language
// that it had. Readers never wait. It is safe for concurrent use.
type Index struct {
	render Render
	live   atomic.Pointer[tables] // what is read

	mu   sync.Mutex // held by writers: it keeps names and places in step, and guards next
	next *tables    // is being loaded; nil: none
}

// NewIndex returns an index without places, which shows them as render writes them.
func NewIndex(render Render) *Index {
	x := &Index{render: render}
	x.live.Store(newTables())
	return x
}

// newer says whether next is a later state of a place than old.
func newer(old, next *Place) bool {
	return cmp.Or(cmp.Compare(next.Change, old.Change), cmp.Compare(next.Version, old.Version)) > 0
}

// rankOf orders places: countries first, then those with most people. It is kept where
// it is compared, since following a pointer takes longer than comparing.
func rankOf(p *Place) int64 {
	const countries = 1 << 62
	rank := min(p.Population, countries-1)
	if p.Kind == Country {
		rank += countries
	}
	return rank
}

// byRank is the order in which places are shown, the highest rank first.
func byRank(a, b *Localized) int {
	return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(a.Key.ID, b.Key.ID))
}

// localizedBytes is what a Localized holds. The strings of the key are shared.
func localizedBytes(l *Localized) int {
	return int(unsafe.Sizeof(*l)) + len(l.Name) + len(l.Body) + len(l.search)
}

// Load replaces all there is by the places that feed adds, which it may do from
// several goroutines at once, and by what Apply is told meanwhile. Until it returns,
// and if it returns an error, readers see what was there before. It takes one load at
// a time.
func (x *Index) Load(feed func(add func([]Place)) error) error {
	t := newTables()
	x.mu.Lock()
	if x.next != nil {
		x.mu.Unlock()
		return errors.New("place: the index is being loaded already; wait for that load")
	}
	x.next = t
	x.mu.Unlock()
	loaded := false
	defer func() { // also when feed panics
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.next = nil; loaded {
			t.dropLeftover()
			x.live.Store(t)
		}
	}()
	err := t.places.Load(func(addPlaces func([]*record)) error {
		return t.names.Load(func(addNames func([]*Localized)) error {
			return feed(func(rows []Place) {
				places := make([]*record, 0, len(rows))
				names := make([]*Localized, 0, len(rows))
				for i := range rows {
					place, localized := x.split(&rows[i])
					places, names = append(places, place), append(names, localized...)
				}
				addPlaces(places)
				addNames(names)
			})
		})
	})
	loaded = err == nil
	return err
}

// dropLeftover drops names that their places no longer have: what a load read may be
// older than what was applied meanwhile.
func (t *tables) dropLeftover() {
	var gone []*Localized
	for l := range t.names.All() {
		place := t.places.Get(l.Key.ID)
		if place != nil && !l.gone && newer(l.Place, &place.Place) && !place.has(l.Key.Language) {
			gone = append(gone, tombstone(place, l.Key))
		}
	}
	t.names.Put(gone...)
}

// tombstone stands for a name that a place no longer has.
func tombstone(place *record, key Key) *Localized {
	return &Localized{Place: &place.Place, Key: key, gone: true}
}

// Apply takes places over that have changed, tombstones included. What is older than
// what is there changes nothing, so order and repetition do not matter.
func (x *Index) Apply(rows []Place) {
	x.mu.Lock()
	defer x.mu.Unlock()
	live := x.live.Load()
	for i := range rows {
		if x.next == nil && !live.lacks(&rows[i]) {
			continue // most of what comes back from the database was written here
		}
		place, names := x.split(&rows[i])
		live.put(place, names)
		if x.next != nil {
			x.next.put(place, names)
		}
	}
}

// lacks says whether a place is newer than what is there.
func (t *tables) lacks(p *Place) bool {
	before := t.places.Get(p.ID)
	return before == nil || newer(&before.Place, p)
}

// put takes a place over with its names, if it is newer than what is there.
func (t *tables) put(place *record, names []*Localized) {
	if !t.lacks(&place.Place) {
		return
	}
	var dropped []*Localized
	if before := t.places.Get(place.ID); before != nil {
		for language := range strings.FieldsSeq(before.languages) {
			if !place.has(language) {
				dropped = append(dropped, tombstone(place, Key{ID: place.ID, Language: language}))
			}
		}
	}
	// At every moment the names that the place lists are there.
	t.names.Put(names...)
	t.places.Put(place)
	t.names.Put(dropped...)
}

// split makes the records of a place. Strings that many have are kept once.
func (x *Index) split(p *Place) (*record, []*Localized) {
	r := &record{Place: *p, rank: rankOf(p)}
	r.Names = nil
	r.Kind, r.CountryCode, r.Admin = once(p.Kind), once(p.CountryCode), once(p.Admin)
	if r.Deleted = p.Deleted || p.Unreadable; r.Deleted {
		return r, nil
	}
	tags := make([]string, 0, len(p.Names))
	for tag := range p.Names {
		tags = append(tags, tag)
	}
	slices.Sort(tags)
	r.languages = once(strings.Join(tags, " "))
	names := make([]*Localized, len(tags))
	for i, tag := range tags {
		name := p.Names[tag]
		body := x.render(p, tag, name)
		names[i] = &Localized{Place: &r.Place, Key: Key{ID: p.ID, Language: once(tag)}, Name: name,
			Body: body, Sum: xxhash.Sum64(body), search: searchKey(tag, fold(name)), rank: r.rank}
	}
	return r, names
}

// once returns the one string that all equal ones share.
func once[S ~string](s S) S { return unique.Make(s).Value() }

// searchKey is what prefixes are kept by: a name of a language. The language is one
// character, so that ranked lists of short prefixes are as short as names go. It
// need not be the language's alone: who searches looks at the language as well.
func searchKey(language, folded string) string {
	// A private use character is never the first of a language's alphabet.
	const first, last = 0xE000, 0xF8FF
	h := uint32(2166136261) // FNV-1a
	for i := 0; i < len(language); i++ {
		h = (h ^ uint32(language[i])) * 16777619
	}
	return string(rune(first+h%(last-first+1))) + folded
}

// Stats says how many places in how many languages there are, and what they hold.
func (x *Index) Stats() memindex.Stats {
	t := x.live.Load()
	names, places := t.names.Stats(), t.places.Stats()
	names.RecordBytes += places.RecordBytes
	names.IndexBytes += places.IndexBytes
	return names
}
