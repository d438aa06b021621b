package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"millrace/internal/event"
	storesql "millrace/internal/store/sql"
)

// place is where a row is.
type place struct{ received, seq int64 }

// Event returns a tenant's event by id. See event.Store.
//
// The rows are found by the owner, day by day, who has no policy that the planner
// could take a worse index for; then the row is read for the tenant.
func (e *events) Event(ctx context.Context, tenantID, id string) (found event.Event, err error) {
	defer e.db.o.Metrics.timed("event", nil)()
	if !isText(tenantID) || !isText(id) {
		return event.Event{}, event.ErrNotFound // what no row can have
	}
	ctx, cancel := e.db.deadline(storesql.ForTenant(ctx, tenantID))
	defer cancel()
	var newest place
	err = e.search(ctx, event.HashOf(tenantID, "", id), id, func(tenant, source, have string, at place) bool {
		if tenant == tenantID && have == id && (at.received > newest.received || at.received == newest.received && at.seq > newest.seq || newest.seq == 0) {
			newest = at
		}
		return newest.seq > 0
	})
	if err != nil {
		return event.Event{}, in("look up an event", because(ctx, err))
	}
	if newest.seq == 0 {
		return event.Event{}, event.ErrNotFound
	}
	var r eventRow
	err = e.db.fresh.QueryRow(ctx, `SELECT 0::bigint, `+eventColumns+`, 1::bigint FROM events e WHERE e.tenant_id = $1 AND e.received_ns = $2 AND e.seq = $3`,
		tenantID, newest.received, newest.seq).Scan(r.fields()...)
	switch {
	case noRows(err):
		return event.Event{}, event.ErrNotFound // retention was faster
	case err != nil:
		return event.Event{}, in("look up an event", err)
	}
	return r.event(tenantID), nil
}

// Has says whether an event with this hash is stored. See event.Store.
func (e *events) Has(ctx context.Context, h event.Hash) (there bool, err error) {
	ctx, cancel := e.db.deadline(ctx)
	defer cancel()
	err = e.search(ctx, h, "", func(tenant, source, id string, _ place) bool {
		there = there || event.HashOf(tenant, source, id) == h
		return there
	})
	return there, in("look for an event", err)
}

// search calls look with every event whose hash has the look-up key of h, day by
// day, and ends after the days asked together of which look said that it is enough.
// The days are the newest first; but if the id tells its time, its day comes first.
func (e *events) search(ctx context.Context, h event.Hash, id string, look func(tenant, source, id string, at place) bool) error {
	for tries := 0; ; tries++ {
		days, err := eventDays(ctx, e.db.hot)
		if err != nil {
			return err
		}
		err = e.searchDays(ctx, searchOrder(days, id), int64(h.LookupKey()), look)
		// A day that was dropped since it was listed is no error.
		if sqlState(err) != stateUndefinedTable || tries == 2 {
			return err
		}
	}
}

// searchOrder returns the days in the groups in which they are asked.
func searchOrder(days []day, id string) [][]day {
	days = slices.Clone(days)
	slices.Reverse(days)
	var groups [][]day
	if u, err := uuid.Parse(id); err == nil && u.Version() == 7 {
		seconds, nanos := u.Time().UnixTime()
		born := dayOf(time.Unix(seconds, nanos))
		// It was received when it was made, or soon after.
		first := slices.DeleteFunc(slices.Clone(days), func(d day) bool { return d != born && d != born+1 })
		if len(first) > 0 {
			groups = append(groups, first)
			days = slices.DeleteFunc(days, func(d day) bool { return d == born || d == born+1 })
		}
	}
	for size := 4; len(days) > 0; size *= 4 {
		n := min(size, len(days))
		groups, days = append(groups, days[:n]), days[n:]
	}
	return groups
}

func (e *events) searchDays(ctx context.Context, groups [][]day, key int64, look func(tenant, source, id string, at place) bool) error {
	if len(groups) == 0 {
		return nil
	}
	conn, err := e.db.hot.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	for _, days := range groups {
		pipe := &pgx.Batch{}
		pipe.Queue(`BEGIN READ ONLY`)
		// The planner thinks too little of the filters, and to start helpers would take
		// longer than all the rest.
		pipe.Queue(`SELECT set_config('enable_seqscan', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)`)
		enough := false
		for _, d := range days {
			pipe.Queue(`SELECT tenant_id, coalesce(source, ''), id, received_ns, seq FROM `+d.of("events")+` WHERE id_key = $1`, key).Query(func(rows pgx.Rows) error {
				var tenant, source, id string
				var at place
				_, err := pgx.ForEachRow(rows, []any{&tenant, &source, &id, &at.received, &at.seq}, func() error {
					enough = look(tenant, source, id, at) || enough
					return nil
				})
				return err
			})
		}
		pipe.Queue(`COMMIT`)
		if err := conn.SendBatch(ctx, pipe).Close(); err != nil {
			e.rollback(ctx, conn)
			return err
		}
		if enough {
			return nil
		}
	}
	return nil
}
