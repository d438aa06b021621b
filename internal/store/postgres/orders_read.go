package postgres

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"millrace/internal/order"
	storesql "millrace/internal/store/sql"
)

const orderByID = `SELECT ` + orderColumns + ` FROM orders AS o WHERE o.tenant_id = $1 AND o.id = $2`

// Order returns one order, from the primary: a client reads what it has just
// written. See order.Store.
func (o *orders) Order(ctx context.Context, tenantID, id string) (found order.Order, err error) {
	ctx, cancel := o.db.deadline(storesql.ForTenant(ctx, tenantID))
	defer cancel()
	there := false
	rows, err := o.db.fresh.Query(ctx, orderByID, storable(tenantID), storable(id))
	err = eachRow(rows, err, func(r row) (err error) {
		there = true
		found, err = decodeOrder(r)
		return err
	})
	switch {
	case err != nil:
		return order.Order{}, fmt.Errorf("read order %s: %w", id, asExpected(ctx, err))
	case !there:
		return order.Order{}, order.ErrNotFound
	}
	return found, nil
}

const historyOfOrder = `SELECT version, at_ns, event, from_status, to_status, actor, reason FROM order_history
	WHERE tenant_id = $1 AND order_id = $2 ORDER BY version`

// History returns an order's transitions, from the primary as the order itself: the
// two belong together. See order.Store.
func (o *orders) History(ctx context.Context, tenantID, id string) ([]order.HistoryEntry, error) {
	ctx, cancel := o.db.deadline(storesql.ForTenant(ctx, tenantID))
	defer cancel()
	var entries []order.HistoryEntry
	rows, err := o.db.fresh.Query(ctx, historyOfOrder, storable(tenantID), storable(id))
	err = eachRow(rows, err, func(r row) error {
		if err := r.wide(7); err != nil {
			return err
		}
		entries = append(entries, order.HistoryEntry{Version: intOf(r[0]), At: timeOf(r[1]), Event: order.Event(textOf(r[2])),
			From: order.Status(textOf(r[3])), To: order.Status(textOf(r[4])), Actor: textOf(r[5]), Reason: textOf(r[6])})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the history of order %s: %w", id, asExpected(ctx, err))
	}
	return entries, nil
}

// maxOrderPageBytes bounds the texts of one page of orders.
const maxOrderPageBytes = 8 << 20

// errPageFull ends the reading of a page before its rows do.
var errPageFull = errors.New("the page is full")

// Orders returns one page. See order.Store.
func (o *orders) Orders(ctx context.Context, q order.Query) (order.Page, error) {
	if q.Limit < 1 {
		return order.Page{}, fmt.Errorf("list orders: the limit is %d; ask for at least 1", q.Limit)
	}
	before := ""
	if q.Cursor != "" {
		var err error
		if before, err = parseOrderCursor(q); err != nil {
			return order.Page{}, err
		}
	}
	ctx, cancel := o.db.deadline(storesql.ForTenant(ctx, q.TenantID))
	defer cancel()
	query, args := ordersQuery(q, before)
	var page order.Page
	bytes := 0
	pool := o.db.fresh
	if !q.Fresh {
		pool = o.db.reader(ctx)
	}
	rows, err := pool.Query(ctx, query, args...)
	err = eachRow(rows, err, func(r row) error {
		if n := len(page.Orders); n == q.Limit || bytes >= maxOrderPageBytes {
			page.Next = orderCursor(q, page.Orders[n-1].ID)
			return errPageFull
		}
		found, err := decodeOrder(r)
		if err != nil {
			return err
		}
		bytes += len(r[9]) + len(r[10]) + len(r[11]) + len(r[18]) // about as long as in the answer
		page.Orders = append(page.Orders, found)
		return nil
	})
	if err != nil && !errors.Is(err, errPageFull) {
		return order.Page{}, fmt.Errorf("list orders: %w", asExpected(ctx, err))
	}
	return page, nil
}

// ordersQuery returns the statement for the orders below an id, or for the newest
// if it is empty: one more than the page takes, which tells whether any follow.
func ordersQuery(q order.Query, before string) (query string, args []any) {
	var where strings.Builder
	and := func(condition, value string) {
		args = append(args, storable(value))
		where.WriteString(" AND " + condition + strconv.Itoa(len(args)))
	}
	and("o.tenant_id = $", q.TenantID)
	if q.CustomerID != "" {
		and("o.customer_id = $", q.CustomerID)
	}
	switch {
	case q.Status != "" && q.CustomerID != "":
		// A customer has few orders and a status many: so the index of statuses cannot be
		// used.
		and("o.status || '' = $", string(q.Status))
	case q.Status != "":
		and("o.status = $", string(q.Status))
	}
	if before != "" {
		and("o.id < $", before)
	}
	args = append(args, q.Limit+1)
	return `SELECT ` + orderColumns + ` FROM orders AS o WHERE` + strings.TrimPrefix(where.String(), " AND") +
		` ORDER BY o.id DESC LIMIT $` + strconv.Itoa(len(args)), args
}

// A cursor's text is base64url of version, the id of the page's last order, and a
// checksum of both and of the query's filter, so that it goes on with the same
// query only. It keeps no secret.
const (
	orderCursorVersion  = 1
	orderCursorMaxBytes = 1 << 10
)

func orderCursor(q order.Query, id string) string {
	b := append([]byte{orderCursorVersion}, id...)
	return base64.RawURLEncoding.EncodeToString(append(b, orderCursorSum(q, b)...))
}

func orderCursorSum(q order.Query, body []byte) []byte {
	filter := strings.Join([]string{q.TenantID, q.CustomerID, string(q.Status)}, "\x00")
	sum := crc32.Update(crc32.ChecksumIEEE(body), crc32.IEEETable, []byte(filter))
	return []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}
}

// parseOrderCursor answers order.ErrBadCursor for what orderCursor did not write
// for such a query.
func parseOrderCursor(q order.Query) (id string, err error) {
	if len(q.Cursor) > orderCursorMaxBytes {
		return "", order.ErrBadCursor
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(q.Cursor)
	if err != nil || len(b) < 1+1+4 || b[0] != orderCursorVersion {
		return "", order.ErrBadCursor
	}
	body, sum := b[:len(b)-4], b[len(b)-4:]
	if string(orderCursorSum(q, body)) != string(sum) {
		return "", order.ErrBadCursor
	}
	return string(body[1:]), nil
}
