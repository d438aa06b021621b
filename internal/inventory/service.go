package inventory

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of what a Service takes.
const (
	// MaxImportLines bounds one call of Import. A call is one transaction, during
	// which nothing else is written: callers with more send several.
	MaxImportLines = 250

	maxSKUBytes      = 64
	maxReasonRunes   = 500
	maxKeyBytes      = 255
	maxImportIDBytes = 100
)

// Service is stock as the merchant uses it: it judges what is asked for and hands
// it to the store. It is safe for concurrent use.
type Service struct {
	store Store
	now   func() time.Time
}

// New returns the stock that lies in store. A nil now means time.Now.
func New(store Store, now func() time.Time) *Service {
	if now == nil {
		now = time.Now
	}
	return &Service{store: store, now: now}
}

// Set sets what is on hand. A Set without a time is of now. Errors: an
// *InvalidError, and those of Store.Set.
func (s *Service) Set(ctx context.Context, set Set) (Level, error) {
	if err := checkSKU(set.SKU); err != nil {
		return Level{}, err
	}
	if err := checkQuantity("onHand", set.OnHand); err != nil {
		return Level{}, err
	}
	if set.IfVersion < AnyVersion {
		return Level{}, &InvalidError{Field: "version", Detail: fmt.Sprintf("%d is not a version; they begin with 1", set.IfVersion)}
	}
	s.stamp(&set.Now)
	return s.store.Set(ctx, set)
}

// Adjust changes what is on hand by a delta, once for its key, for at least
// KeyLife. An Adjustment without a time is of now. Errors: an *InvalidError, and
// those of Store.Adjust.
func (s *Service) Adjust(ctx context.Context, a Adjustment) (level Level, replayed bool, err error) {
	if err := checkSKU(a.SKU); err != nil {
		return Level{}, false, err
	}
	if err := checkDelta(a.Delta); err != nil {
		return Level{}, false, err
	}
	if detail := textProblem(a.Reason, "the reason", maxReasonRunes); detail != "" {
		return Level{}, false, &InvalidError{Field: "reason", Detail: detail}
	}
	if strings.TrimSpace(a.Reason) == "" {
		return Level{}, false, &InvalidError{Field: "reason", Detail: `the reason is missing; say why the stock changes, such as "damaged in transit"`}
	}
	if a.Key == "" || len(a.Key) > maxKeyBytes || textProblem(a.Key, "the key", maxKeyBytes) != "" {
		return Level{}, false, &InvalidError{Field: "key", Detail: fmt.Sprintf("an adjustment needs a key of 1 to %d characters that names it, so that sending it again does not do it twice", maxKeyBytes)}
	}
	s.stamp(&a.Now)
	return s.store.Adjust(ctx, a)
}

// Import applies lines, all that can be in one durable transaction, each once
// for its (tenant, import, line). Results are in the order of lines; one that
// fails leaves the others, and is tried again when it comes again. Its error is
// an *InvalidError, a *ReservedError, an *OverflowError or a *ReusedLineError. The
// last value is the error of the whole: nothing was applied. A line without a time
// is of now.
func (s *Service) Import(ctx context.Context, lines []ImportLine) ([]ImportResult, error) {
	if len(lines) > MaxImportLines {
		return nil, &InvalidError{Field: "lines", Detail: fmt.Sprintf("there are %d lines; send at most %d at once", len(lines), MaxImportLines)}
	}
	results := make([]ImportResult, len(lines))
	var valid []ImportLine
	var index []int // of valid in lines
	for i, l := range lines {
		if err := checkLine(&l); err != nil {
			results[i].Err = err
			continue
		}
		s.stamp(&l.Now)
		valid, index = append(valid, l), append(index, i)
	}
	if len(valid) == 0 {
		return results, nil
	}
	done, err := s.store.Import(ctx, valid)
	if err != nil {
		return nil, fmt.Errorf("inventory: import %d lines: %w", len(valid), err)
	}
	for j, i := range index {
		results[i] = done[j]
	}
	return results, nil
}

// Get returns the stock of a tenant's SKU. The error wraps ErrNotFound if none
// was ever set.
func (s *Service) Get(ctx context.Context, tenantID, sku string) (Level, error) {
	if checkSKU(sku) != nil {
		return Level{}, ErrNotFound
	}
	return s.store.Level(ctx, tenantID, sku)
}

// List returns one page of a tenant's levels. The error wraps ErrBadCursor if the
// cursor is not one that a page gave.
func (s *Service) List(ctx context.Context, q Query) (Page, error) { return s.store.Levels(ctx, q) }

func (s *Service) stamp(t *time.Time) {
	if t.IsZero() {
		*t = s.now().UTC()
	}
}

func checkLine(l *ImportLine) error {
	if l.ImportID == "" || len(l.ImportID) > maxImportIDBytes || textProblem(l.ImportID, "the id", maxImportIDBytes) != "" {
		return &InvalidError{Field: "importId", Detail: fmt.Sprintf("an import needs an id of 1 to %d characters, so that its lines are not applied twice", maxImportIDBytes)}
	}
	if l.Line < 1 {
		return &InvalidError{Field: "line", Detail: fmt.Sprintf("%d is not the number of a line; they begin with 1", l.Line)}
	}
	if err := checkSKU(l.SKU); err != nil {
		return err
	}
	if l.IsDelta {
		return checkDelta(l.Delta)
	}
	return checkQuantity("onHand", l.OnHand)
}

func checkSKU(sku string) error {
	ok := len(sku) >= 1 && len(sku) <= maxSKUBytes && sku != "." && sku != ".."
	for i := 0; i < len(sku) && ok; i++ {
		c := sku[i]
		ok = c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '.' || c == '_' || c == '-'
	}
	if !ok {
		return &InvalidError{Field: "sku", Detail: fmt.Sprintf("%.80q is not a SKU; use 1 to %d of A-Z a-z 0-9 . _ and -", sku, maxSKUBytes)}
	}
	return nil
}

func checkQuantity(field string, n int64) error {
	if n < 0 || n > MaxQuantity {
		return &InvalidError{Field: field, Detail: fmt.Sprintf("%d is out of range; give a number from 0 to %d", n, int64(MaxQuantity))}
	}
	return nil
}

func checkDelta(n int64) error {
	if n == 0 || n < -MaxQuantity || n > MaxQuantity {
		return &InvalidError{Field: "delta", Detail: fmt.Sprintf("%d is out of range; give a number from -%d to %d that is not 0", n, int64(MaxQuantity), int64(MaxQuantity))}
	}
	return nil
}

// textProblem says what is wrong with a text, "" if nothing is.
func textProblem(s, what string, maxRunes int) string {
	if !utf8.ValidString(s) {
		return what + " is not valid UTF-8; encode it as UTF-8"
	}
	if i := strings.IndexByte(s, 0); i >= 0 {
		return fmt.Sprintf("%s has a NUL character at byte %d; leave it out", what, i)
	}
	if n := utf8.RuneCountInString(s); n > maxRunes {
		return fmt.Sprintf("%s has %d characters; use at most %d", what, n, maxRunes)
	}
	return ""
}

// CheckOnHand says whether a level may have so much on hand while so much is
// reserved: nil, a *ReservedError or an *OverflowError.
func CheckOnHand(sku string, onHand, reserved int64) error {
	switch {
	case onHand < 0 || onHand > MaxQuantity:
		return &OverflowError{SKU: sku, OnHand: onHand}
	case onHand < reserved:
		return &ReservedError{SKU: sku, OnHand: onHand, Reserved: reserved}
	}
	return nil
}
