package inventory

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// by is who changes stock.
var by = audit.Actor{Subject: "ann", Method: "jwt", RequestID: "r1"}

// memory is a Store that remembers what it is asked.
type memory struct {
	sets        []Set
	adjustments []Adjustment
	lines       []ImportLine
	err         error
}

func (m *memory) Set(_ context.Context, s Set) (Level, error) {
	m.sets = append(m.sets, s)
	return Level{SKU: s.SKU, OnHand: s.OnHand}, m.err
}

func (m *memory) Adjust(_ context.Context, a Adjustment) (Level, bool, error) {
	m.adjustments = append(m.adjustments, a)
	return Level{SKU: a.SKU, OnHand: a.Delta}, true, m.err
}

func (m *memory) Import(_ context.Context, lines []ImportLine) ([]ImportResult, error) {
	m.lines = append(m.lines, lines...)
	results := make([]ImportResult, len(lines))
	for i, l := range lines {
		results[i].Level.SKU = l.SKU
	}
	return results, m.err
}

func (m *memory) Level(_ context.Context, _, sku string) (Level, error) {
	return Level{SKU: sku}, m.err
}
func (m *memory) Levels(context.Context, Query) (Page, error) { return Page{Next: "more"}, m.err }

func newService(m *memory) *Service { return New(m, func() time.Time { return noon }) }

// wantInvalid fails the test unless err is an *InvalidError about a field that
// says what is wanted.
func wantInvalid(t testing.TB, name string, err error, field, want string) {
	t.Helper()
	var invalid *InvalidError
	if !errors.As(err, &invalid) || invalid.Field != field || !strings.Contains(invalid.Detail, want) {
		t.Errorf("%s: error %v, want an *InvalidError about %s that says %q", name, err, field, want)
	}
}

// badSKUs are no SKUs.
var badSKUs = []string{"", "a b", "a/b", ".", "..", "a\x00", "ü", "a\xff", strings.Repeat("x", 65)}

func TestQuantitiesAndSKUsOutOfRangeAreRefused(t *testing.T) {
	m := &memory{}
	s := newService(m)
	for _, sku := range badSKUs {
		_, err := s.Set(t.Context(), Set{TenantID: "demo", SKU: sku})
		wantInvalid(t, "set "+sku, err, "sku", "is not a SKU; use 1 to 64")
		_, _, err = s.Adjust(t.Context(), Adjustment{TenantID: "demo", SKU: sku, Delta: 1, Reason: "r", Key: "k"})
		wantInvalid(t, "adjust "+sku, err, "sku", "is not a SKU")
		if _, err := s.Get(t.Context(), "demo", sku); !errors.Is(err, ErrNotFound) {
			t.Errorf("get %q: error %v", sku, err)
		}
	}
	for _, n := range []int64{-1, MaxQuantity + 1, math.MaxInt64, math.MinInt64} {
		_, err := s.Set(t.Context(), Set{TenantID: "demo", SKU: "a", OnHand: n})
		wantInvalid(t, "set", err, "onHand", "out of range; give a number from 0 to 1000000000")
	}
	for _, n := range []int64{0, -MaxQuantity - 1, MaxQuantity + 1, math.MaxInt64, math.MinInt64} {
		_, _, err := s.Adjust(t.Context(), Adjustment{TenantID: "demo", SKU: "a", Delta: n, Reason: "r", Key: "k"})
		wantInvalid(t, "adjust", err, "delta", "that is not 0")
	}
	_, err := s.Set(t.Context(), Set{TenantID: "demo", SKU: "a", IfVersion: -2})
	wantInvalid(t, "version", err, "version", "-2 is not a version")
	if len(m.sets)+len(m.adjustments) > 0 {
		t.Errorf("the store was asked: %+v, %+v", m.sets, m.adjustments)
	}
}

func TestAnAdjustmentNeedsAReasonAndAKey(t *testing.T) {
	m := &memory{}
	good := Adjustment{TenantID: "demo", SKU: "a", Delta: -1, Reason: "broken", Key: "k", Actor: by}
	for _, tt := range []struct {
		name, field, want string
		change            func(*Adjustment)
	}{
		{"no reason", "reason", "missing", func(a *Adjustment) { a.Reason = "" }},
		{"a blank reason", "reason", "missing", func(a *Adjustment) { a.Reason = " \n" }},
		{"a long reason", "reason", "501 characters", func(a *Adjustment) { a.Reason = strings.Repeat("ü", 501) }},
		{"a reason with NUL", "reason", "NUL", func(a *Adjustment) { a.Reason = "a\x00" }},
		{"a reason that is not UTF-8", "reason", "UTF-8", func(a *Adjustment) { a.Reason = "a\xff" }},
		{"no key", "key", "1 to 255", func(a *Adjustment) { a.Key = "" }},
		{"a long key", "key", "1 to 255", func(a *Adjustment) { a.Key = strings.Repeat("x", 256) }},
		{"a key with NUL", "key", "1 to 255", func(a *Adjustment) { a.Key = "\x00" }},
	} {
		a := good
		tt.change(&a)
		_, _, err := newService(m).Adjust(t.Context(), a)
		wantInvalid(t, tt.name, err, tt.field, tt.want)
	}
	if len(m.adjustments) > 0 {
		t.Errorf("the store was asked: %+v", m.adjustments)
	}
	good.Reason, good.Key = strings.Repeat("ü", 500), strings.Repeat("x", 255)
	if l, replayed, err := newService(m).Adjust(t.Context(), good); l.OnHand != -1 || !replayed || err != nil {
		t.Errorf("%+v, %v, %v", l, replayed, err)
	}
	good.Now = noon
	if diff := cmp.Diff([]Adjustment{good}, m.adjustments); diff != "" {
		t.Errorf("adjustments (-want +got):\n%s", diff)
	}
}

func TestARequestWithoutATimeIsOfNow(t *testing.T) {
	m := &memory{}
	later := noon.Add(time.Hour)
	for _, at := range []time.Time{{}, later} {
		if _, err := newService(m).Set(t.Context(), Set{TenantID: "demo", SKU: "a", OnHand: MaxQuantity, IfVersion: AnyVersion, Now: at, Actor: by}); err != nil {
			t.Fatal(err)
		}
	}
	want := []Set{{TenantID: "demo", SKU: "a", OnHand: MaxQuantity, IfVersion: AnyVersion, Now: noon, Actor: by}, {TenantID: "demo", SKU: "a", OnHand: MaxQuantity, IfVersion: AnyVersion, Now: later, Actor: by}}
	if diff := cmp.Diff(want, m.sets); diff != "" {
		t.Errorf("sets (-want +got):\n%s", diff)
	}
}

func TestBadLinesAreRefusedAndTheOthersImported(t *testing.T) {
	good := ImportLine{TenantID: "demo", ImportID: "i", Line: 1, SKU: "a", OnHand: 5, Actor: by}
	var lines []ImportLine
	var fields []string
	for field, changes := range map[string][]func(*ImportLine){
		"":         {func(*ImportLine) {}, func(l *ImportLine) { l.IsDelta, l.OnHand, l.Delta = true, -1, -MaxQuantity }, func(l *ImportLine) { l.Delta = math.MaxInt64 }},
		"importId": {func(l *ImportLine) { l.ImportID = "" }, func(l *ImportLine) { l.ImportID = strings.Repeat("x", 101) }, func(l *ImportLine) { l.ImportID = "\x00" }},
		"line":     {func(l *ImportLine) { l.Line = 0 }, func(l *ImportLine) { l.Line = -1 }},
		"sku":      {func(l *ImportLine) { l.SKU = "a b" }},
		"onHand":   {func(l *ImportLine) { l.OnHand = -1 }, func(l *ImportLine) { l.OnHand = MaxQuantity + 1 }},
		"delta":    {func(l *ImportLine) { l.IsDelta = true }, func(l *ImportLine) { l.IsDelta, l.Delta = true, math.MinInt64 }},
	} {
		for _, change := range changes {
			l := good
			change(&l)
			lines, fields = append(lines, l), append(fields, field)
		}
	}
	m := &memory{}
	results, err := newService(m).Import(t.Context(), lines)
	if err != nil || len(results) != len(lines) {
		t.Fatalf("%d results, error %v", len(results), err)
	}
	taken := 0
	for i, r := range results {
		if fields[i] != "" {
			wantInvalid(t, fields[i], r.Err, fields[i], "")
			continue
		}
		want := lines[i]
		want.Now = noon
		if r.Err != nil || r.Level.SKU != "a" {
			t.Errorf("%+v: %+v", lines[i], r)
		} else if diff := cmp.Diff(want, m.lines[taken]); diff != "" {
			t.Errorf("line (-want +got):\n%s", diff)
		}
		taken++
	}
	if taken != len(m.lines) {
		t.Errorf("the store was given %d lines, want %d", len(m.lines), taken)
	}
	m.err = errors.New("the disk is full")
	if _, err := newService(m).Import(t.Context(), lines); !errors.Is(err, m.err) {
		t.Errorf("error %v, want the store's", err)
	}
	if results, err := newService(m).Import(t.Context(), []ImportLine{{}}); err != nil || results[0].Err == nil {
		t.Errorf("the store was asked for nothing: %+v, %v", results, err)
	}
	_, err = newService(m).Import(t.Context(), make([]ImportLine, MaxImportLines+1))
	wantInvalid(t, "too many", err, "lines", "at most 250")
}

func TestWhatMayBeOnHand(t *testing.T) {
	for _, tt := range []struct {
		onHand, reserved int64
		want             error
	}{
		{0, 0, nil}, {5, 5, nil}, {MaxQuantity, 0, nil}, {MaxQuantity, MaxQuantity, nil},
		{4, 5, &ReservedError{SKU: "a", OnHand: 4, Reserved: 5}},
		{-1, 0, &OverflowError{SKU: "a", OnHand: -1}},
		{-1, 5, &OverflowError{SKU: "a", OnHand: -1}},
		{MaxQuantity + 1, 0, &OverflowError{SKU: "a", OnHand: MaxQuantity + 1}},
	} {
		if diff := cmp.Diff(tt.want, CheckOnHand("a", tt.onHand, tt.reserved)); diff != "" {
			t.Errorf("%d on hand, %d reserved (-want +got):\n%s", tt.onHand, tt.reserved, diff)
		}
	}
}

func TestTheAuditEntriesSayWhatChangedAndWhy(t *testing.T) {
	none := Level{TenantID: "demo", SKU: "a"}
	was := Level{TenantID: "demo", SKU: "a", OnHand: 7, Reserved: 2, Version: 3}
	is := Level{TenantID: "demo", SKU: "a", OnHand: 5, Reserved: 2, Version: 4}
	type made struct {
		e   audit.Entry
		err error
	}
	makes := func(e audit.Entry, err error) made { return made{e, err} }
	const before = `{"onHand":7,"reserved":2,"version":3}`
	for _, tt := range []struct {
		made
		action, before, after string
	}{
		{makes(SetEntry(Set{Now: noon, Actor: by}, none, is)), "stock.set", "", `{"onHand":5,"reserved":2,"version":4}`},
		{makes(SetEntry(Set{Now: noon, Actor: by}, was, is)), "stock.set", before, `{"onHand":5,"reserved":2,"version":4}`},
		{makes(AdjustEntry(Adjustment{Delta: -2, Reason: "broken", Now: noon, Actor: by}, was, is)), "stock.adjust", before,
			`{"onHand":5,"reserved":2,"version":4,"delta":-2,"reason":"broken"}`},
		{makes(ImportEntry(ImportLine{ImportID: "i", Line: 9, OnHand: 5, Delta: 8, Now: noon, Actor: by}, was, is)), "stock.import", before,
			`{"onHand":5,"reserved":2,"version":4,"importId":"i","line":9}`},
		{makes(ImportEntry(ImportLine{ImportID: "i", Line: 9, IsDelta: true, Delta: -2, Now: noon, Actor: by}, was, is)), "stock.import", before,
			`{"onHand":5,"reserved":2,"version":4,"delta":-2,"importId":"i","line":9}`},
	} {
		if tt.err != nil || tt.e.TenantID != "demo" || tt.e.Action != tt.action || tt.e.Object != "stock/a" || tt.e.Actor != by || !tt.e.At.Equal(noon) {
			t.Errorf("%s: %+v, error %v", tt.action, tt.e, tt.err)
		}
		if diff := cmp.Diff([]string{tt.before, tt.after}, []string{string(tt.e.Before), string(tt.e.After)}); diff != "" {
			t.Errorf("%s: before and after (-want +got):\n%s", tt.action, diff)
		}
	}
}
