package load

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// orderOutcome is what became of an order.
type orderOutcome uint8

const (
	orderPlaced     orderOutcome = iota
	orderOutOfStock              // 409: not placed
	orderInvalid                 // 422: not placed
	orderRefused                 // 429 or 503: not placed, may be tried again
	orderFailed                  // another answer that says it was not placed
	orderUnknown                 // may or may not have been placed
	orderUnreached               // no connection: not placed
)

// again says whether an order must be sent again, or may be.
func (o orderOutcome) again(wanted, doubtful bool) bool {
	switch o {
	case orderUnknown:
		return true
	case orderRefused, orderUnreached:
		return wanted || doubtful
	}
	return false
}

const outOfStockType = "/out-of-stock"

var outOfStockQuick = []byte(outOfStockType + `"`)

// judgeOrder tells the outcome of a round trip.
func judgeOrder(a answer, err error) orderOutcome {
	switch judge(a, err) {
	case accepted:
		return orderPlaced
	case refused:
		return orderRefused
	case unknown:
		return orderUnknown
	case unreached:
		return orderUnreached
	}
	switch {
	case a.status == 409 && (bytes.Contains(a.body, outOfStockQuick) || problemType(a.body) == outOfStockType):
		return orderOutOfStock
	case a.status == 422:
		return orderInvalid
	}
	return orderFailed
}

// receipt is what a placed order's answer says.
type receipt struct {
	id    idBytes
	total int64
}

// parseReceipt reads the body of a 202. The usual answer is read without
// decoding.
func parseReceipt(body []byte) (receipt, error) {
	const idStart, amountStart = `{"id":"`, `"total":{"amount":`
	if bytes.HasPrefix(body, []byte(idStart)) && len(body) > len(idStart)+idLen {
		id, err := parseID(body[len(idStart) : len(idStart)+idLen])
		total, ok := numberAfter(body, amountStart)
		if err == nil && ok {
			return receipt{id, int64(total)}, nil
		}
	}
	var full struct {
		ID    string `json:"id"`
		Total struct {
			Amount *int64 `json:"amount"`
		} `json:"total"`
	}
	if err := json.Unmarshal(body, &full); err != nil || full.Total.Amount == nil {
		return receipt{}, fmt.Errorf(`the server answered 2xx without {"id":…,"total":{"amount":…}}: %q`, clip(body, 200))
	}
	id, err := parseID([]byte(full.ID))
	if err != nil {
		return receipt{}, fmt.Errorf("the server answered 2xx with an id that is none: %w", err)
	}
	return receipt{id, *full.Total.Amount}, nil
}

// mergeLines sorts lines by SKU and makes one of those with the same.
func mergeLines(lines []orderLine) []orderLine {
	slices.SortFunc(lines, func(a, b orderLine) int { return int(a.sku) - int(b.sku) })
	merged := lines[:0]
	for _, l := range lines {
		if n := len(merged); n > 0 && merged[n-1].sku == l.sku {
			merged[n-1].quantity += l.quantity
			continue
		}
		merged = append(merged, l)
	}
	return merged
}

// describeLines writes lines for people.
func describeLines(lines []orderLine, skus []skuSeed) string {
	var parts []string
	for _, l := range lines {
		parts = append(parts, fmt.Sprintf("%d × %s", l.quantity, skus[l.sku].sku))
	}
	return strings.Join(parts, ", ")
}
