package sqlite

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// day is a UTC day, counted from the Unix epoch.
type day int32

const nanosPerDay = int64(24 * time.Hour)

// dayOf returns the day a time falls on.
func dayOf(t time.Time) day {
	s := t.Unix()
	d := s / 86400
	if s%86400 < 0 {
		d--
	}
	return day(d)
}

func (d day) time() time.Time { return time.Unix(int64(d)*86400, 0).UTC() }

// startNs and endNs bound the day's times of receipt: [startNs, endNs).
func (d day) startNs() int64 { return int64(d) * nanosPerDay }
func (d day) endNs() int64   { return (int64(d) + 1) * nanosPerDay }

func (d day) fileName() string { return d.time().Format(time.DateOnly) + ".db" }

// parseFileName is the inverse of fileName; false for any other file.
func parseFileName(name string) (day, bool) {
	date, ok := strings.CutSuffix(name, ".db")
	if !ok {
		return 0, false
	}
	t, err := time.Parse(time.DateOnly, date)
	if err != nil {
		return 0, false
	}
	return dayOf(t), true
}

// midnight returns the day that begins at t, or an error if none does.
func midnight(t time.Time) (day, error) {
	d := dayOf(t)
	if !d.time().Equal(t) {
		return 0, fmt.Errorf("%s is not a UTC midnight", t.UTC().Format(time.RFC3339Nano))
	}
	return d, nil
}

// Times beyond what int64 nanoseconds can hold become the nearest they can.
var (
	earliest = time.Unix(0, math.MinInt64)
	latest   = time.Unix(0, math.MaxInt64)
)

// unixNano returns t in Unix nanoseconds, or otherwise if t is zero.
func unixNano(t time.Time, otherwise int64) int64 {
	switch {
	case t.IsZero():
		return otherwise
	case t.Before(earliest):
		return math.MinInt64
	case t.After(latest):
		return math.MaxInt64
	}
	return t.UnixNano()
}
