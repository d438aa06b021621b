package memindex_test

import (
	"cmp"
	"math/rand/v2"
	"testing"

	"millrace/internal/memindex"
)

// claimer is a record that may claim a name.
type claimer struct {
	id, change int
	name       string
}

// TestOfSeveralClaimersTheFirstInOrderHasTheKey compares a table with all its records
// after anything was put or loaded.
func TestOfSeveralClaimersTheFirstInOrderHasTheKey(t *testing.T) {
	names := []string{"", "x", "y", "z"}
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		table := memindex.New(func(c *claimer) int { return c.id }, memindex.Options[claimer]{
			Supersedes: func(old, next *claimer) bool { return (old.change+next.change)%4 > 0 },
		})
		before := func(a, b *claimer) bool { return cmp.Or(cmp.Compare(b.change, a.change), cmp.Compare(a.id, b.id)) < 0 }
		unique := memindex.AddUniqueBy(table, func(c *claimer) (string, bool) { return c.name, c.name != "" }, before)
		anyOne := func() *claimer { return &claimer{random.IntN(8), random.IntN(30), names[random.IntN(len(names))]} }
		for step := range 100 {
			if random.IntN(5) == 0 {
				err := table.Load(func(add func([]*claimer)) error {
					for range random.IntN(6) {
						add([]*claimer{anyOne(), anyOne()})
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			} else {
				table.Put(anyOne())
			}
			for _, name := range names[1:] {
				var want *claimer
				for c := range table.All() {
					if c.name == name && (want == nil || before(c, want)) {
						want = c
					}
				}
				if got := unique.Get(name); got != want {
					t.Fatalf("seed %d, step %d: %q is with %+v, want %+v", seed, step, name, got, want)
				}
			}
		}
	}
}
