package place

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"unique"
	"unsafe"

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

// Index keeps all places in memory, one record for each place and language and one
// for each place, and finds them by id and language, by country and by how their
// names begin. Readers never wait. It is safe for concurrent use.
type Index struct {
	render Render

	names    *memindex.Table[Key, Localized]
	prefixes *memindex.Prefixes[Localized]
	places   *memindex.Table[int64, record] // with tombstones
	regions  *memindex.Groups[region, record]

	mu sync.Mutex // held by writers: it keeps names and places in step
}

// NewIndex returns an index without places, which shows them as render writes them.
func NewIndex(render Render) *Index {
	x := &Index{render: render}
	x.names = memindex.New(func(l *Localized) Key { return l.Key }, memindex.Options[Localized]{
		Name:       "place_names",
		Supersedes: func(old, next *Localized) bool { return newer(old.Place, next.Place) },
		Live:       func(l *Localized) bool { return !l.gone },
		Bytes:      localizedBytes,
	})
	x.prefixes = memindex.AddPrefixes(x.names,
		func(l *Localized, add func(string)) { add(l.search) },
		func(a, b *Localized) int {
			return cmp.Or(byRank(a, b), strings.Compare(a.Key.Language, b.Key.Language))
		})
	x.places = memindex.New(func(r *record) int64 { return r.ID }, memindex.Options[record]{
		Name:       "places",
		Supersedes: func(old, next *record) bool { return newer(&old.Place, &next.Place) },
		Live:       func(r *record) bool { return !r.Deleted },
		Bytes:      func(*record) int { return int(unsafe.Sizeof(record{})) },
	})
	x.regions = memindex.AddGroups(x.places,
		func(r *record, add func(region)) {
			add(region{})
			add(region{country: r.CountryCode})
			if r.Kind == Country { // of cities there are so many that all are looked at
				add(region{kind: Country})
			}
		},
		func(a, b *record) int { return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(a.ID, b.ID)) })
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

// Load fills the index: feed calls add, from as many goroutines as it likes, with
// all places. Changes may be applied meanwhile, and it may be called again after an
// error. Readers see the places at the latest when it returns.
func (x *Index) Load(feed func(add func([]Place)) error) error {
	err := x.places.Load(func(addPlaces func([]*record)) error {
		return x.names.Load(func(addNames func([]*Localized)) error {
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
	x.dropLeftover()
	return err
}

// dropLeftover drops names that their places no longer have: what a load read may be
// older than what was applied meanwhile or is loaded from an earlier try.
func (x *Index) dropLeftover() {
	x.mu.Lock()
	defer x.mu.Unlock()
	var gone []*Localized
	for l := range x.names.All() {
		place := x.places.Get(l.Key.ID)
		if place != nil && !l.gone && newer(l.Place, &place.Place) && !place.has(l.Key.Language) {
			gone = append(gone, tombstone(place, l.Key))
		}
	}
	x.names.Put(gone...)
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
	for i := range rows {
		before := x.places.Get(rows[i].ID)
		if before != nil && !newer(&before.Place, &rows[i]) {
			continue
		}
		place, names := x.split(&rows[i])
		if before != nil {
			for language := range strings.FieldsSeq(before.languages) {
				if !place.has(language) {
					names = append(names, tombstone(place, Key{ID: place.ID, Language: language}))
				}
			}
		}
		if place.Deleted { // what lists it goes first, what it lists last
			x.places.Put(place)
			x.names.Put(names...)
		} else {
			x.names.Put(names...)
			x.places.Put(place)
		}
	}
}

// split makes the records of a place. Strings that many have are kept once.
func (x *Index) split(p *Place) (*record, []*Localized) {
	r := &record{Place: *p, rank: rankOf(p)}
	r.Names = nil
	r.Kind, r.CountryCode, r.Admin = once(p.Kind), once(p.CountryCode), once(p.Admin)
	if p.Deleted {
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
		names[i] = &Localized{Place: &r.Place, Key: Key{ID: p.ID, Language: once(tag)}, Name: name,
			Body: x.render(p, tag, name), search: searchKey(tag, fold(name)), rank: r.rank}
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
	names, places := x.names.Stats(), x.places.Stats()
	names.RecordBytes += places.RecordBytes
	names.IndexBytes += places.IndexBytes
	return names
}
