package postgres

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// day is a UTC day, counted from the Unix epoch.
type day int32

const (
	nanosPerDay   = int64(24 * time.Hour)
	minutesPerDay = int64(24 * time.Hour / time.Minute)
	dayLayout     = "20060102"
)

// dayOf returns the day a time falls on.
func dayOf(t time.Time) day { return day(floorDiv(t.Unix(), 24*60*60)) }

func dayOfNanos(ns int64) day { return day(floorDiv(ns, nanosPerDay)) }

func (d day) time() time.Time { return time.Unix(int64(d)*24*60*60, 0).UTC() }

// startNs and endNs bound the day's times of receipt: [startNs, endNs).
func (d day) startNs() int64 { return int64(d) * nanosPerDay }
func (d day) endNs() int64   { return (int64(d) + 1) * nanosPerDay }

// String is how a person writes the day.
func (d day) String() string { return d.time().Format(time.DateOnly) }

// of returns the name of the day's partition of a table.
func (d day) of(table string) string { return table + "_" + d.time().Format(dayLayout) }

// dayOfPartition is the inverse of of; false for any other name.
func dayOfPartition(table, name string) (day, bool) {
	suffix, ok := strings.CutPrefix(name, table+"_")
	if !ok {
		return 0, false
	}
	t, err := time.Parse(dayLayout, suffix)
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

// dayStart returns the first nanosecond of the day of a time. A batch is of one day,
// so none that reaches a time begins before it.
func dayStart(ns int64) int64 {
	if ns < math.MinInt64+nanosPerDay {
		return math.MinInt64
	}
	return dayOfNanos(ns).startNs()
}
