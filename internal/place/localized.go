package place

import "errors"

// Key names a place in one language.
type Key struct {
	ID       int64
	Language string // a canonical BCP 47 tag
}

// Localized is a place in one language as readers get it. It is never changed: a
// newer one takes its place.
type Localized struct {
	// Place is what does not depend on the language. Its Names are nil, since each is
	// in the Localized of its language.
	Place *Place
	Key   Key
	Name  string
	// Body is what Render made of it.
	Body []byte
	// Sum is the xxHash64 of Body: what tells two contents of one version apart, which
	// there are when a backup was restored.
	Sum uint64

	search string // searchKey of Name
	rank   int64  // rankOf Place
	gone   bool   // the place has no name in this language any more
}

// Render writes a place in one language as it is shown; name is its name in that
// language. The bytes are kept and must not be changed afterwards.
type Render func(p *Place, language, name string) []byte

// Query asks for places.
type Query struct {
	// Prefix is how the name begins, whatever its case and diacritics, in one of
	// Languages, their parents or the default language; at most 100 characters. Empty
	// means any.
	Prefix string
	// CountryCode is ISO 3166-1 alpha-2, upper case. Empty means all.
	CountryCode string
	Kind        Kind // empty means all
	// Languages are those to show names in, best first.
	Languages []string
	Limit     int // 1 to 100; 0 means 20
}

// MaxPuts bounds one call of Put. A call is one transaction, during which nothing
// else is written: callers with more send several.
const MaxPuts = 500

// ErrLoading says that the places are not all in memory yet. Trying again in a second
// helps.
var ErrLoading = errors.New("the places are still being loaded")
