package sqlite

import (
	"math"
	"time"

	"millrace/internal/event"
)

// group is what is counted together: one type of one tenant.
type group struct{ tenant, kind string }

// moneyGroup is what amounts are added up for: one type and currency of one tenant.
type moneyGroup struct{ tenant, kind, currency string }

// moneyCount is what is known of a moneyGroup in one minute.
type moneyCount struct{ events, bytes, amount int64 }

// count is what is known of a group in one minute and chunk. events and bytes are
// of the events without a currency.
type count struct {
	events, bytes int64
	blocks        uint64
	first, last   int64 // Unix nanoseconds
}

// tally adds up rollups and presence. Its maps live as long as one call of add:
// their keys alias the rows.
type tally struct {
	groups  map[group]*count
	tenants map[string]*count
	money   map[moneyGroup]moneyCount // nil until there is some
}

// add counts rows, the first of which has the sequence seq.
func (t *tally) add(w *writer, b *event.Batch, rows []event.Row, seq int64) error {
	if t.groups == nil {
		t.groups, t.tenants = map[group]*count{}, map[string]*count{}
	}
	defer t.reset()
	for len(rows) > 0 {
		chunk, minute := seq>>chunkBits, minuteOf(rows[0].ReceivedAt)
		n := t.count(rows, seq, chunk, minute)
		if err := t.flush(w, b, chunk, minute); err != nil {
			return err
		}
		rows, seq = rows[n:], seq+int64(n)
	}
	return nil
}

// count adds up the rows of one chunk and minute and returns how many those are.
func (t *tally) count(rows []event.Row, seq, chunk, minute int64) int {
	var last group
	var c *count
	for i := range rows {
		r := &rows[i]
		if (seq+int64(i))>>chunkBits != chunk || minuteOf(r.ReceivedAt) != minute {
			return i
		}
		if c == nil || last.kind != r.Type || last.tenant != r.TenantID {
			last = group{r.TenantID, r.Type}
			if c = t.groups[last]; c == nil {
				c = &count{first: r.ReceivedAt, last: r.ReceivedAt}
				t.groups[last] = c
			}
		}
		if r.Currency == "" {
			c.events++
			c.bytes += int64(len(r.Payload))
		} else {
			t.countMoney(r)
		}
		c.see(uint64(1)<<(uint64(seq+int64(i))>>blockBits&63), r.ReceivedAt, r.ReceivedAt)
	}
	return len(rows)
}

// countMoney counts an event with a currency.
func (t *tally) countMoney(r *event.Row) {
	if t.money == nil {
		t.money = map[moneyGroup]moneyCount{}
	}
	g := moneyGroup{r.TenantID, r.Type, r.Currency}
	m := t.money[g]
	m.events++
	m.bytes += int64(len(r.Payload))
	m.amount = addWithin(m.amount, r.Amount)
	t.money[g] = m
}

// addWithin returns a + b, or the bound of int64 that it exceeds.
func addWithin(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < math.MinInt64-b:
		return math.MinInt64
	}
	return a + b
}

func (c *count) see(blocks uint64, first, last int64) {
	c.blocks |= blocks
	c.first, c.last = min(c.first, first), max(c.last, last)
}

// flush writes what was counted.
func (t *tally) flush(w *writer, b *event.Batch, chunk, minute int64) error {
	for g, c := range t.groups {
		if c.events > 0 {
			if err := w.addRollup.with(g.tenant, minute, g.kind, b.LogID[:], c.events, c.bytes); err != nil {
				return err
			}
		}
		if err := w.addPresence.with(g.tenant, g.kind, chunk, int64(c.blocks), c.first, c.last); err != nil {
			return err
		}
		all := t.tenants[g.tenant]
		if all == nil {
			all = &count{first: c.first, last: c.last}
			t.tenants[g.tenant] = all
		}
		all.see(c.blocks, c.first, c.last)
	}
	for g, m := range t.money {
		if err := w.addMoney.with(g.tenant, minute, g.kind, g.currency, b.LogID[:], m.events, m.bytes, m.amount); err != nil {
			return err
		}
	}
	for tenant, c := range t.tenants {
		if err := w.addPresence.with(tenant, "", chunk, int64(c.blocks), c.first, c.last); err != nil {
			return err
		}
	}
	t.reset()
	return nil
}

func (t *tally) reset() {
	clear(t.groups)
	clear(t.tenants)
	clear(t.money)
}

// addMoneySQL adds to a rollup of money. SQLite turns a sum beyond 64 bits into a
// floating-point number, so it must not come to that.
const addMoneySQL = `INSERT INTO money_rollups (tenant_id, minute, type, currency, log_id, count, bytes, amount) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
	ON CONFLICT (tenant_id, minute, type, currency, log_id) DO UPDATE SET count = count + excluded.count, bytes = bytes + excluded.bytes,
		amount = CASE
			WHEN excluded.amount > 0 AND amount > 9223372036854775807 - excluded.amount THEN 9223372036854775807
			WHEN excluded.amount < 0 AND amount < -9223372036854775807 - 1 - excluded.amount THEN -9223372036854775807 - 1
			ELSE amount + excluded.amount END`

// minuteOf returns the Unix minute of a time in Unix nanoseconds.
func minuteOf(ns int64) int64 {
	const perMinute = int64(time.Minute)
	m := ns / perMinute
	if ns%perMinute < 0 {
		m--
	}
	return m
}
