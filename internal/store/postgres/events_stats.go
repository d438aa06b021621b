package postgres

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/internal/event"
	storesql "millrace/internal/store/sql"
)

// Stats returns counts and amounts per type, currency and step, from the rollups:
// From and To count with the whole minute they fall into. See event.Store.
func (e *events) Stats(ctx context.Context, q event.StatsQuery) (series []event.Series, err error) {
	defer e.db.o.Metrics.timed("stats", &err)()
	if q.Step < time.Minute || q.Step%time.Minute != 0 {
		return nil, fmt.Errorf("query event stats: the step is %s; give a whole number of minutes, at least one", q.Step)
	}
	ctx, cancel := e.db.deadline(storesql.ForTenant(ctx, q.TenantID))
	defer cancel()
	minutes := int64(q.Step / time.Minute)
	query, args := statsQuery(q, minutes)
	err = e.lagging(ctx, func(pool *pgxpool.Pool) error {
		rows, err := pool.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		series, err = collectSeries(rows, minutes, q.MaxPoints)
		return err
	})
	if err != nil {
		return nil, in("query event stats", because(ctx, err))
	}
	return series, nil
}

// collectSeries reads points in order of type, currency and time.
func collectSeries(rows pgx.Rows, minutes int64, most int) (series []event.Series, err error) {
	var kind, currency string
	var step int64
	var p event.Point
	points := 0
	_, err = pgx.ForEachRow(rows, []any{&kind, &currency, &step, &p.Count, &p.Bytes, &p.Amount}, func() error {
		if points++; most > 0 && points > most {
			return event.ErrTooManyPoints
		}
		p.Time = time.Unix(step*minutes*60, 0).UTC()
		if n := len(series); n == 0 || series[n-1].Type != kind || series[n-1].Currency != currency {
			series = append(series, event.Series{Type: kind, Currency: currency})
		}
		s := &series[len(series)-1]
		s.Points = append(s.Points, p)
		return nil
	})
	return series, err
}

func statsQuery(q event.StatsQuery, minutes int64) (query string, args []any) {
	from, to := unixNano(q.From, math.MinInt64), unixNano(q.To, math.MaxInt64)
	// to is exclusive: a minute counts if it begins before it.
	last := minuteOf(to)
	if to != math.MaxInt64 && to%int64(time.Minute) == 0 {
		last--
	}
	kind := ""
	args = []any{minutes, q.TenantID, minuteOf(from), last}
	if q.Type != "" {
		kind, args = ` AND type = $5`, append(args, q.Type)
	}
	limit := ""
	if q.MaxPoints > 0 {
		limit, args = fmt.Sprintf(` LIMIT $%d`, len(args)+1), append(args, q.MaxPoints+1)
	}
	// The sums are numeric, which knows no bounds.
	return `SELECT type, currency, minute / $1 AS step, sum(count)::bigint, sum(bytes)::bigint,
	greatest(least(sum(amount), 9223372036854775807), -9223372036854775808)::bigint
FROM event_rollups WHERE tenant_id = $2 AND minute BETWEEN $3 AND $4` + kind + `
GROUP BY type, currency, step ORDER BY type, currency, step` + limit, args
}
