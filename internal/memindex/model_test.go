package memindex_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"millrace/internal/memindex"
)

// entry is a record of the tests against a model, under all kinds of keys.
type entry struct {
	key     entryKey
	version int
	rank    int
	slug    string
	groups  []int
	names   []string
	deleted bool
}

type entryKey struct {
	id       int
	language string
}

func (e *entry) String() string {
	if e == nil {
		return "none"
	}
	return fmt.Sprintf("%d/%s v%d rank %d slug %q groups %v names %q deleted %t",
		e.key.id, e.key.language, e.version, e.rank, e.slug, e.groups, e.names, e.deleted)
}

func byRank(a, b *entry) int {
	return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.key.id, b.key.id), cmp.Compare(a.key.language, b.key.language))
}

// entries is a table of entries with one of each kind of secondary key.
type entries struct {
	*memindex.Table[entryKey, entry]
	bySlug  *memindex.Unique[string, entry]
	byGroup *memindex.Groups[int, entry]
	byName  *memindex.Prefixes[entry]
}

func newEntries() entries {
	t := memindex.New(func(e *entry) entryKey { return e.key }, memindex.Options[entry]{
		Supersedes: func(old, next *entry) bool { return next.version > old.version },
		Live:       func(e *entry) bool { return !e.deleted },
		Bytes:      func(*entry) int { return 100 },
	})
	return entries{
		Table:  t,
		bySlug: memindex.AddUnique(t, func(e *entry) (string, bool) { return e.slug, e.slug != "" }),
		byGroup: memindex.AddGroups(t, func(e *entry, add func(int)) {
			for _, g := range e.groups {
				add(g)
			}
		}, byRank),
		byName: memindex.AddPrefixes(t, func(e *entry, add func(string)) {
			for _, name := range e.names {
				add(name)
			}
		}, byRank),
	}
}

// model is what a table of entries should be, kept in the simplest way.
type model struct {
	records map[entryKey]*entry
	// claims are the live records of each slug, the one that was put last last.
	claims map[string][]*entry
}

func newModel() *model {
	return &model{records: map[entryKey]*entry{}, claims: map[string][]*entry{}}
}

func (m *model) put(e *entry) (changed bool) {
	old := m.records[e.key]
	if old != nil && e.version <= old.version {
		return false
	}
	m.records[e.key] = e
	if old != nil {
		m.claims[old.slug] = slices.DeleteFunc(m.claims[old.slug], func(c *entry) bool { return c == old })
	}
	if !e.deleted && e.slug != "" {
		m.claims[e.slug] = append(m.claims[e.slug], e)
	}
	return true
}

func (m *model) live(which func(*entry) bool) []*entry {
	var live []*entry
	for _, e := range m.records {
		if !e.deleted && which(e) {
			live = append(live, e)
		}
	}
	slices.SortFunc(live, byRank)
	return live
}

// The tests' domain is small, so that records meet often.
const (
	modelIDs    = 120
	modelSlugs  = 60
	modelGroups = 6
)

func randomEntry(random *rand.Rand) *entry {
	e := &entry{
		key:     entryKey{random.IntN(modelIDs), []string{"de", "en", "fr"}[random.IntN(3)]},
		version: random.IntN(40),
		rank:    random.IntN(10),
		deleted: random.IntN(5) == 0,
	}
	if random.IntN(4) > 0 {
		e.slug = fmt.Sprint("slug-", random.IntN(modelSlugs))
	}
	for range random.IntN(3) {
		e.groups = append(e.groups, random.IntN(modelGroups))
	}
	for range random.IntN(4) {
		e.names = append(e.names, randomName(random))
	}
	return e
}

func randomName(random *rand.Rand) string {
	var b strings.Builder
	for range random.IntN(7) {
		b.WriteString([]string{"a", "ä", "維", "b", "\xff"}[min(random.IntN(5), random.IntN(6))])
	}
	return b.String()
}

// check compares everything a table answers with the model. After a Load it is open
// which of several records has a slug.
func (m *model) check(t *testing.T, x entries, random *rand.Rand, loaded bool) {
	t.Helper()
	live := 0
	for _, e := range m.records {
		if x.Get(e.key) != e {
			t.Fatalf("Get(%v) = %v, want %v", e.key, x.Get(e.key), e)
		}
		if !e.deleted {
			live++
		}
	}
	stats := x.Stats()
	if stats.Records != len(m.records) || x.Len() != len(m.records) || stats.Live != live || stats.RecordBytes != int64(100*len(m.records)) {
		t.Fatalf("Stats() = %+v and Len() = %d, want %d records, %d of them live, of 100 bytes each", stats, x.Len(), len(m.records), live)
	}
	seen := map[*entry]bool{}
	for e := range x.All() {
		if seen[e] || m.records[e.key] != e {
			t.Fatalf("All visits %v, twice: %t", e, seen[e])
		}
		seen[e] = true
	}
	if len(seen) != len(m.records) {
		t.Fatalf("All visits %d records, want %d", len(seen), len(m.records))
	}
	for i := range modelSlugs {
		slug := fmt.Sprint("slug-", i)
		got, claims := x.bySlug.Get(slug), m.claims[slug]
		switch {
		case len(claims) == 0 && got != nil,
			len(claims) > 0 && !slices.Contains(claims, got),
			len(claims) > 0 && !loaded && got != claims[len(claims)-1]:
			t.Fatalf("Unique.Get(%q) = %v, want the last of %v", slug, got, claims)
		}
	}
	for g := range modelGroups + 1 {
		want := m.live(func(e *entry) bool { return slices.Contains(e.groups, g) })
		equal(t, fmt.Sprintf("Groups.All(%d)", g), slices.Collect(x.byGroup.All(g)), want)
		if x.byGroup.Len(g) != len(want) {
			t.Fatalf("Groups.Len(%d) = %d, want %d", g, x.byGroup.Len(g), len(want))
		}
		after := randomEntry(random)
		want = slices.DeleteFunc(want, func(e *entry) bool { return byRank(e, after) <= 0 })
		equal(t, fmt.Sprintf("Groups.After(%d, %v)", g, after), slices.Collect(x.byGroup.After(g, after)), want)
	}
	for range 20 {
		prefix, limit := randomName(random), 1+random.IntN(8)
		var keep func(*entry) bool
		if random.IntN(2) == 0 {
			keep = func(e *entry) bool { return e.key.id%3 > 0 }
		}
		want := m.live(func(e *entry) bool {
			return (keep == nil || keep(e)) &&
				slices.ContainsFunc(e.names, func(name string) bool { return strings.HasPrefix(name, prefix) })
		})
		equal(t, fmt.Sprintf("Prefixes.Top(%q, %d)", prefix, limit), x.byName.Top(prefix, limit, keep), want[:min(limit, len(want))])
	}
}

func equal(t *testing.T, what string, got, want []*entry) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s differs (-want +got):\n%s", what, gocmp.Diff(fmt.Sprint(want), fmt.Sprint(got)))
	}
}

func TestATableAnswersLikeAModel(t *testing.T) {
	for _, loads := range []bool{false, true} {
		for seed := range uint64(12) {
			t.Run(fmt.Sprintf("with loads %t, seed %d", loads, seed), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 7))
				x, m := newEntries(), newModel()
				loaded := false
				for range 150 {
					batch := make([]*entry, 1+random.IntN(12))
					for i := range batch {
						batch[i] = randomEntry(random)
					}
					batch = append(batch, batch[0]) // the very same again
					if loads && random.IntN(10) == 0 {
						loaded = true
						load(t, x.Table, batch)
						for _, e := range batch {
							m.put(e)
						}
					} else {
						want := 0
						for _, e := range batch {
							if m.put(e) {
								want++
							}
						}
						if got := x.Put(batch...); got != want {
							t.Fatalf("Put changed %d records, want %d", got, want)
						}
					}
					m.check(t, x, random, loaded)
				}
			})
		}
	}
}

func TestALoadOfManyRecordsAnswersLikeAModel(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	x, m := newEntries(), newModel()
	for round := range 3 { // the first into an empty table, the others over what is there
		batch := make([]*entry, 20_000) // enough for several parts and whole chunks
		for i := range batch {
			batch[i] = randomEntry(random)
			batch[i].key.id = random.IntN(8_000)
			batch[i].version = round*20 + random.IntN(40)
			m.put(batch[i])
		}
		load(t, x.Table, batch)
		m.check(t, x, random, true)
	}
	for range 3_000 { // and what was loaded can be changed piece by piece
		e := randomEntry(random)
		e.key.id = random.IntN(8_000)
		e.version += 60
		m.put(e)
		x.Put(e)
	}
	m.check(t, x, random, true)
	for _, e := range m.records { // to the last record
		gone := &entry{key: e.key, version: e.version + 1, deleted: true}
		m.put(gone)
		x.Put(gone)
	}
	m.check(t, x, random, true)
	if empty := newEntries(); x.Stats().IndexBytes > empty.Stats().IndexBytes+int64(x.Len())*30+100_000 {
		t.Errorf("tombstones keep %d bytes of the index", x.Stats().IndexBytes)
	}
}
