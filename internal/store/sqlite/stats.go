package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"millrace/internal/event"
)

// Stats returns counts and amounts per type, currency and step, from the rollups: From and To count
// with the whole minute they fall into. See event.Store.
func (e *events) Stats(ctx context.Context, q event.StatsQuery) ([]event.Series, error) {
	defer e.metrics.timed("stats")()
	if q.Step < time.Minute || q.Step%time.Minute != 0 {
		return nil, fmt.Errorf("query event stats: the step is %s; give a whole number of minutes, at least one", q.Step)
	}
	views, err := e.files.snapshot()
	if err != nil {
		return nil, err
	}
	from, to := unixNano(q.From, math.MinInt64), unixNano(q.To, math.MaxInt64)
	series := &pointSum{max: q.MaxPoints, points: map[seriesKey]map[int64]event.Point{}}
	for _, v := range views {
		if v.file.day.endNs() <= from || v.file.day.startNs() >= to {
			continue
		}
		if err := e.statsIn(ctx, v.file, q, from, to, series); err != nil && !errors.Is(err, errDropped) {
			return nil, fmt.Errorf("query event stats of %s: %w", v.file.day.time().Format(time.DateOnly), err)
		}
	}
	return series.sorted(), nil
}

// seriesKey is what makes a series.
type seriesKey struct{ kind, currency string }

// pointSum adds up points by series and step.
type pointSum struct {
	max    int // 0 means no bound
	count  int
	points map[seriesKey]map[int64]event.Point
}

func (t *pointSum) add(kind seriesKey, step int64, p event.Point) error {
	steps := t.points[kind]
	if steps == nil {
		steps = map[int64]event.Point{}
		t.points[kind] = steps
	}
	before, there := steps[step]
	if !there {
		if t.count++; t.max > 0 && t.count > t.max {
			return event.ErrTooManyPoints
		}
	}
	p.Count += before.Count
	p.Bytes += before.Bytes
	p.Amount = addWithin(p.Amount, before.Amount)
	steps[step] = p
	return nil
}

func (t *pointSum) sorted() []event.Series {
	out := make([]event.Series, 0, len(t.points))
	inOrder := func(a, b seriesKey) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.currency, b.currency))
	}
	for _, key := range slices.SortedFunc(maps.Keys(t.points), inOrder) {
		s := event.Series{Type: key.kind, Currency: key.currency}
		for _, at := range slices.Sorted(maps.Keys(t.points[key])) {
			s.Points = append(s.Points, t.points[key][at])
		}
		out = append(out, s)
	}
	return out
}

// statsIn adds the rollups of one file to the series.
func (e *events) statsIn(ctx context.Context, file *dayFile, q event.StatsQuery, from, to int64, series *pointSum) error {
	db, err := e.files.acquire(file)
	if err != nil {
		return err
	}
	defer e.files.release(file)
	// to is exclusive: a minute counts if it begins before it.
	minutes := int64(q.Step / time.Minute)
	last := minuteOf(to)
	if to != math.MaxInt64 && to%int64(time.Minute) == 0 {
		last--
	}
	where, args := ` WHERE tenant_id = ? AND minute BETWEEN ? AND ?`, []any{minutes, q.TenantID, minuteOf(from), last}
	if q.Type != "" {
		where, args = where+` AND type = ?`, append(args, q.Type)
	}
	// sum answers an error beyond 64 bits, which the halves of a number never reach.
	query := `SELECT type, minute / ?, '', sum(count), sum(bytes), 0, 0 FROM rollups` + where + ` GROUP BY 1, 2
		UNION ALL
		SELECT type, minute / ?, currency, sum(count), sum(bytes), sum(amount >> 32), sum(amount & 0xffffffff) FROM money_rollups` + where + ` GROUP BY 1, 2, 3`
	rows, err := db.QueryContext(ctx, query, append(args, args...)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var key seriesKey
		var step, high, low int64
		var p event.Point
		if err := rows.Scan(&key.kind, &step, &key.currency, &p.Count, &p.Bytes, &high, &low); err != nil {
			return err
		}
		p.Time = time.Unix(step*minutes*60, 0).UTC()
		p.Amount = join(high, low)
		if err := series.add(key, step, p); err != nil {
			return err
		}
	}
	return rows.Err()
}

// join returns high<<32 + low, or the bound of int64 that it exceeds. low is not
// negative.
func join(high, low int64) int64 {
	high += low >> 32
	switch {
	case high > math.MaxInt32:
		return math.MaxInt64
	case high < math.MinInt32:
		return math.MinInt64
	}
	return high<<32 | low&0xffffffff
}
