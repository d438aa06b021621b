package sqlite

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"millrace/internal/order"
)

// orderColumns are an order's columns in the order of decodeOrder.
const orderColumns = `o.tenant_id, o.id, o.customer_id, o.status, o.version, o.currency, o.total, o.captured, o.refunded,
	o.lines, o.details, o.progress, o.placed_ns, o.updated_ns, o.deadline_ns, o.attempts, o.next_attempt_ns, o.parked_ns, o.last_error`

const orderColumnCount = 19

// decodeOrder reads a row of orderColumns.
func decodeOrder(row []driver.Value) (order.Order, error) {
	o := order.Order{
		TenantID: textOf(row[0]), ID: textOf(row[1]), CustomerID: textOf(row[2]),
		Status: order.Status(textOf(row[3])), Version: intOf(row[4]),
		Currency: textOf(row[5]), Total: intOf(row[6]), Captured: intOf(row[7]), Refunded: intOf(row[8]),
		PlacedAt: timeOf(row[12]), UpdatedAt: timeOf(row[13]), Deadline: timeOf(row[14]),
		Attempts: int(intOf(row[15])), NextAttempt: timeOf(row[16]), ParkedAt: timeOf(row[17]), LastError: textOf(row[18]),
	}
	for _, part := range []struct {
		column string
		text   string
		to     any
	}{
		{"lines", textOf(row[9]), &o.Lines},
		{"details", textOf(row[10]), &o.Details},
		{"progress", textOf(row[11]), &o.Progress},
	} {
		if part.text == "{}" {
			continue
		}
		if err := json.Unmarshal([]byte(part.text), part.to); err != nil {
			return order.Order{}, fmt.Errorf("order %s of tenant %s has a column %s that is damaged; restore the database from a backup: %w",
				o.ID, o.TenantID, part.column, err)
		}
	}
	return o, nil
}

// fillOrder sets the arguments of insertOrders. details and progress are the JSON
// of the order's.
func fillOrder(args []driver.NamedValue, o *order.Order, details, progress string) {
	args[0].Value = o.TenantID
	args[1].Value = o.ID
	args[2].Value = o.CustomerID
	args[3].Value = string(o.Status)
	args[4].Value = o.Version
	args[5].Value = o.Currency
	args[6].Value = o.Total
	args[7].Value = o.Captured
	args[8].Value = o.Refunded
	args[9].Value = linesJSON(o.Lines)
	args[10].Value = details
	args[11].Value = progress
	args[12].Value = nanosOf(o.PlacedAt)
	args[13].Value = nanosOf(o.UpdatedAt)
	args[14].Value = nanosOf(o.Deadline)
	args[15].Value = int64(o.Attempts)
	args[16].Value = nanosOf(o.NextAttempt)
	args[17].Value = nanosOf(o.ParkedAt)
	args[18].Value = o.LastError
}

// linesJSON writes what json.Marshal would.
func linesJSON(lines []order.Line) string {
	b := make([]byte, 0, 2+len(lines)*64)
	b = append(b, '[')
	for i := range lines {
		l := &lines[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"sku":`...)
		b = appendJSONText(b, l.SKU)
		b = append(b, `,"quantity":`...)
		b = strconv.AppendInt(b, l.Quantity, 10)
		b = append(b, `,"unitPrice":`...)
		b = strconv.AppendInt(b, l.UnitPrice, 10)
		b = append(b, '}')
	}
	return string(append(b, ']'))
}

// appendJSONText quotes s, quickly if it is made of what SKUs are made of.
func appendJSONText(b []byte, s string) []byte {
	plain := true
	for i := range len(s) {
		c := s[i]
		plain = plain && ('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.')
	}
	if plain {
		b = append(b, '"')
		b = append(b, s...)
		return append(b, '"')
	}
	quoted, _ := json.Marshal(s) // a string: cannot fail
	return append(b, quoted...)
}

func detailsJSON(d *order.Details) string {
	b, _ := json.Marshal(d) // strings: cannot fail
	return string(b)
}

// progressJSON writes "{}" for what is empty, as it is until an order is paid. An
// error wraps order.ErrData.
func progressJSON(p *order.Progress) (string, error) {
	if *p == (order.Progress{}) {
		return "{}", nil
	}
	b, err := json.Marshal(p)
	if err != nil { // a time beyond the year 9999
		return "", fmt.Errorf("%w: progress: %w", order.ErrData, err)
	}
	return string(b), nil
}

func textOf(v driver.Value) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

func bytesOf(v driver.Value) []byte {
	switch v := v.(type) {
	case []byte:
		return v
	case string:
		return []byte(v)
	}
	return nil
}

func intOf(v driver.Value) int64 {
	n, _ := v.(int64)
	return n
}

// timeOf reads a column of Unix nanoseconds, 0 meaning none.
func timeOf(v driver.Value) time.Time {
	n := intOf(v)
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// nanosOf is the inverse of timeOf.
func nanosOf(t time.Time) int64 { return unixNano(t, 0) }
