package postgres

import (
	"encoding/json"
	"fmt"
	"strconv"

	"millrace/internal/order"
)

// orderColumns are an order's columns in the order of decodeOrder.
const orderColumns = `o.tenant_id, o.id, o.customer_id, o.status, o.version, o.currency, o.total, o.captured, o.refunded,
	o.lines, o.details, o.progress, o.placed_ns, o.updated_ns, o.deadline_ns, o.attempts, o.next_attempt_ns, o.parked_ns, o.last_error`

const orderColumnCount = 19

// decodeOrder reads a row that begins with orderColumns.
func decodeOrder(r row) (order.Order, error) {
	if len(r) < orderColumnCount {
		return order.Order{}, r.wide(orderColumnCount)
	}
	o := order.Order{
		TenantID: textOf(r[0]), ID: textOf(r[1]), CustomerID: textOf(r[2]),
		Status: order.Status(textOf(r[3])), Version: intOf(r[4]),
		Currency: textOf(r[5]), Total: intOf(r[6]), Captured: intOf(r[7]), Refunded: intOf(r[8]),
		PlacedAt: timeOf(r[12]), UpdatedAt: timeOf(r[13]), Deadline: timeOf(r[14]),
		Attempts: int(intOf(r[15])), NextAttempt: timeOf(r[16]), ParkedAt: timeOf(r[17]), LastError: textOf(r[18]),
	}
	for _, part := range []struct {
		column string
		text   []byte
		to     any
	}{
		{"lines", r[9], &o.Lines},
		{"details", r[10], &o.Details},
		{"progress", r[11], &o.Progress},
	} {
		if string(part.text) == "{}" {
			continue
		}
		if err := json.Unmarshal(part.text, part.to); err != nil {
			return order.Order{}, fmt.Errorf("order %s of tenant %s has a column %s that is damaged; restore the database from a backup: %w",
				o.ID, o.TenantID, part.column, err)
		}
	}
	return o, nil
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
