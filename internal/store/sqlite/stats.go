package sqlite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"millrace/internal/event"
)

// Stats returns counts per type and step, from the rollups: From and To count
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
	series := &pointSum{max: q.MaxPoints, points: map[string]map[int64]event.Point{}}
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

// pointSum adds up points by type and step.
type pointSum struct {
	max    int // 0 means no bound
	count  int
	points map[string]map[int64]event.Point
}

func (t *pointSum) add(kind string, step int64, p event.Point) error {
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
	steps[step] = p
	return nil
}

func (t *pointSum) sorted() []event.Series {
	out := make([]event.Series, 0, len(t.points))
	for _, kind := range slices.Sorted(maps.Keys(t.points)) {
		s := event.Series{Type: kind}
		for _, at := range slices.Sorted(maps.Keys(t.points[kind])) {
			s.Points = append(s.Points, t.points[kind][at])
		}
		out = append(out, s)
	}
	return out
}

// statsIn adds the rollups of one file to the series, by type and step.
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
	query, args := `SELECT type, minute / ?, sum(count), sum(bytes) FROM rollups
		WHERE tenant_id = ? AND minute BETWEEN ? AND ?`, []any{minutes, q.TenantID, minuteOf(from), last}
	if q.Type != "" {
		query, args = query+` AND type = ?`, append(args, q.Type)
	}
	rows, err := db.QueryContext(ctx, query+` GROUP BY 1, 2`, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var kind string
		var step int64
		var p event.Point
		if err := rows.Scan(&kind, &step, &p.Count, &p.Bytes); err != nil {
			return err
		}
		p.Time = time.Unix(step*minutes*60, 0).UTC()
		if err := series.add(kind, step, p); err != nil {
			return err
		}
	}
	return rows.Err()
}
