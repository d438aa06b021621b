package place

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Options are what a Service is made of.
type Options struct {
	Store Store // required
	// Index is where reads are answered from. Nil: there are none here, such as in a
	// command that writes, and Get and Search answer ErrLoading.
	Index *Index
	// Ready returns nil once the index is complete. Nil: it is from the start.
	Ready func() error
	// Wrote is told of an own write: the scope and the version it brought. It must not
	// block. Nil: nobody is told.
	Wrote func(scope string, change int64)
	// DefaultLanguage is the last of each chain of languages; "en" if it is empty.
	DefaultLanguage string
	Now             func() time.Time // time.Now if it is nil
}

// Service is the places as the edge uses them: it judges what is put and hands it to
// the store, and it answers reads from the index. It is safe for concurrent use, and
// nothing runs in the background.
type Service struct {
	o      Options
	chains *chains
}

// New returns the places that lie in o.Store and are read from o.Index.
func New(o Options) (*Service, error) {
	if o.Store == nil {
		return nil, errors.New("place: Options.Store is required")
	}
	if o.DefaultLanguage == "" {
		o.DefaultLanguage = "en"
	}
	language, err := canonicalTag(o.DefaultLanguage)
	if err != nil {
		return nil, fmt.Errorf("place: the default language: %w", err)
	}
	o.DefaultLanguage = language
	switch {
	case o.Index == nil:
		o.Ready = func() error { return ErrLoading }
	case o.Ready == nil:
		o.Ready = func() error { return nil }
	}
	if o.Wrote == nil {
		o.Wrote = func(string, int64) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o: o, chains: newChains()}, nil
}

// Put creates, replaces and deletes places, all that can be in one durable
// transaction, and shows them to readers of the index before it returns. Each
// place has its own result and error, in the order of places: an *InvalidError or
// nil. One that fails leaves the others. The last value is the error of the whole:
// nothing is known to have been put. A Put without a time is of now.
func (s *Service) Put(ctx context.Context, p Put) ([]PutResult, []error, error) {
	if len(p.Places) > MaxPuts {
		return nil, nil, &InvalidError{Field: "places", Detail: fmt.Sprintf("there are %d places; send at most %d at once", len(p.Places), MaxPuts)}
	}
	if p.Now.IsZero() {
		p.Now = s.o.Now().UTC()
	}
	results, errs := make([]PutResult, len(p.Places)), make([]error, len(p.Places))
	valid := make([]Place, 0, len(p.Places))
	at := make([]int, 0, len(p.Places)) // of valid in p.Places
	for i := range p.Places {
		place, err := check(p.Places[i])
		if err != nil {
			errs[i] = err
			continue
		}
		valid, at = append(valid, place), append(at, i)
	}
	if len(valid) == 0 {
		return results, errs, nil
	}
	p.Places = valid
	done, err := s.o.Store.Put(ctx, p)
	if err != nil {
		return nil, nil, fmt.Errorf("place: put %d places: %w", len(valid), err)
	}
	if len(done) != len(valid) {
		return nil, nil, fmt.Errorf("place: put %d places: the store answered for %d", len(valid), len(done))
	}
	for j, i := range at {
		results[i] = done[j]
	}
	s.show(done)
	return results, errs, nil
}

// show shows what was written to readers here, and has others told. Readers also see
// what was left as it stood, whoever wrote it: no read that follows may be older than the
// answer that tells of it.
func (s *Service) show(done []PutResult) {
	stand := make([]Place, 0, len(done))
	var change int64
	for i := range done {
		if done[i].Place.Version > 0 {
			stand = append(stand, done[i].Place)
		}
		if done[i].Changed {
			change = max(change, done[i].Place.Change)
		}
	}
	if s.o.Index != nil {
		s.o.Index.Apply(stand)
	}
	if change > 0 {
		s.o.Wrote(Everywhere, change)
	}
}

// Get returns a place in the best of languages that it has a name in: the first of
// them, each followed by its parents (de-AT, de), then the default language, then any
// that it has. The answer is shared and must not be changed. The error wraps
// ErrNotFound or ErrLoading.
func (s *Service) Get(_ context.Context, id int64, languages []string) (*Localized, error) {
	if s.o.Ready() != nil {
		return nil, ErrLoading
	}
	var buf [MaxChain]string
	chain := s.chains.append(buf[:0], languages, s.o.DefaultLanguage)
	if l := s.o.Index.live.Load().localized(id, chain); l != nil {
		return l, nil
	}
	return nil, ErrNotFound
}
