package sqlite

import (
	"context"
	stdsql "database/sql"
	"database/sql/driver"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"millrace/internal/order"
)

// readRows runs a query and hands over its rows of so many columns. The values
// are good until the next call.
func readRows(ctx context.Context, db *stdsql.DB, columns int, each func([]driver.Value) error, query string, args ...any) error {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	return scanRows(rows, columns, each)
}

// scanRows hands over rows and closes them.
func scanRows(rows *stdsql.Rows, columns int, each func([]driver.Value) error) error {
	defer rows.Close()
	values, to := make([]driver.Value, columns), make([]any, columns)
	for i := range values {
		to[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(to...); err != nil {
			return err
		}
		if err := each(values); err != nil {
			return err
		}
	}
	return rows.Err()
}

const orderByID = "SELECT " + orderColumns + " FROM orders AS o WHERE tenant_id = ? AND id = ?"

// Order returns one order. See order.Store. Workers ask for every order several
// times, so the statement is prepared.
func (o *orders) Order(ctx context.Context, tenantID, id string) (order.Order, error) {
	var found order.Order
	there := false
	rows, err := o.byID.QueryContext(ctx, tenantID, id)
	if err == nil {
		err = scanRows(rows, orderColumnCount, func(row []driver.Value) (err error) {
			there = true
			found, err = decodeOrder(row)
			return err
		})
	}
	switch {
	case err != nil:
		return order.Order{}, fmt.Errorf("read order %s: %w", id, err)
	case !there:
		return order.Order{}, order.ErrNotFound
	}
	return found, nil
}

// History returns an order's transitions. See order.Store.
func (o *orders) History(ctx context.Context, tenantID, id string) ([]order.HistoryEntry, error) {
	var entries []order.HistoryEntry
	err := readRows(ctx, o.lists, 7, func(row []driver.Value) error {
		entries = append(entries, order.HistoryEntry{Version: intOf(row[0]), At: timeOf(row[1]), Event: order.Event(textOf(row[2])),
			From: order.Status(textOf(row[3])), To: order.Status(textOf(row[4])), Actor: textOf(row[5]), Reason: textOf(row[6])})
		return nil
	}, `SELECT version, at_ns, event, from_status, to_status, actor, reason FROM order_history
		WHERE tenant_id = ? AND order_id = ? ORDER BY version`, tenantID, id)
	if err != nil {
		return nil, fmt.Errorf("read the history of order %s: %w", id, err)
	}
	return entries, nil
}

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
	query, args := ordersQuery(q, before)
	var page order.Page
	bytes := 0
	err := readRows(ctx, o.lists, orderColumnCount, func(row []driver.Value) error {
		if n := len(page.Orders); n == q.Limit || bytes >= maxPageBytes {
			page.Next = orderCursor(q, page.Orders[n-1].ID)
			return errPageFull
		}
		// As JSON, escapes included: about as long as in the answer.
		bytes += len(textOf(row[9])) + len(textOf(row[10])) + len(textOf(row[11])) + len(textOf(row[18]))
		found, err := decodeOrder(row)
		page.Orders = append(page.Orders, found)
		return err
	}, query, args...)
	if err != nil && !errors.Is(err, errPageFull) {
		return order.Page{}, fmt.Errorf("list orders: %w", err)
	}
	return page, nil
}

// ordersQuery returns the statement for the orders below an id, or for the newest
// if it is empty: one more than the page takes, which tells whether any follow.
func ordersQuery(q order.Query, before string) (query string, args []any) {
	where, args := " WHERE o.tenant_id = ?", []any{q.TenantID}
	if q.CustomerID != "" {
		where, args = where+" AND o.customer_id = ?", append(args, q.CustomerID)
	}
	switch {
	case q.Status != "" && q.CustomerID != "":
		// A customer has few orders and a status many: the plus keeps SQLite from the
		// index of statuses.
		where, args = where+" AND +o.status = ?", append(args, string(q.Status))
	case q.Status != "":
		where, args = where+" AND o.status = ?", append(args, string(q.Status))
	}
	if before != "" {
		where, args = where+" AND o.id < ?", append(args, before)
	}
	return "SELECT " + orderColumns + " FROM orders AS o" + where + " ORDER BY o.id DESC LIMIT ?", append(args, q.Limit+1)
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
