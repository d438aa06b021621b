package load

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"time"
)

// orderReader asks the server for orders, stock and the sandbox's ledger. It is
// safe for concurrent use.
type orderReader struct{ *reader }

func newOrderReader(base *url.URL, token string, timeout time.Duration, concurrency int, conf *tls.Config) orderReader {
	return orderReader{&reader{base: base, token: token, timeout: timeout, client: newClient(concurrency, conf)}}
}

// storedMoney, storedOrder and so on are what the server shows.
type storedMoney struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

type storedOrder struct {
	ID         string `json:"id"`
	CustomerID string `json:"customerId"`
	Status     string `json:"status"`
	Version    int64  `json:"version"`
	Items      []struct {
		SKU       string      `json:"sku"`
		Quantity  int64       `json:"quantity"`
		UnitPrice storedMoney `json:"unitPrice"`
	} `json:"items"`
	Total    storedMoney `json:"total"`
	Captured storedMoney `json:"captured"`
	Refunded storedMoney `json:"refunded"`
	Shipment *struct {
		ShippedAt time.Time `json:"shippedAt"`
	} `json:"shipment"`
	Refund *struct {
		Number  int  `json:"number"`
		Restock bool `json:"restock"`
	} `json:"refund"`
	Restocked bool       `json:"restocked"`
	PlacedAt  time.Time  `json:"placedAt"`
	ParkedAt  *time.Time `json:"parkedAt"`
}

type storedLevel struct {
	SKU       string `json:"sku"`
	OnHand    int64  `json:"onHand"`
	Reserved  int64  `json:"reserved"`
	Available int64  `json:"available"`
	Version   int64  `json:"version"`
}

type storedCharge struct {
	OrderID string `json:"orderId"`
	Key     string `json:"key"`
	State   string `json:"state"`
	// Amount is what was asked for: it was captured if State says so.
	Amount   storedMoney `json:"amount"`
	Refunded storedMoney `json:"refunded"`
}

type storedChange struct {
	Version int64     `json:"version"`
	At      time.Time `json:"at"`
	Event   string    `json:"event"`
	From    string    `json:"from"`
	To      string    `json:"to"`
}

// pages walks the pages of a list. page decodes one and returns its cursor.
func (r orderReader) pages(ctx context.Context, path string, q url.Values, get func(*url.URL) (next string, found, goOn bool, err error)) (bool, error) {
	if q == nil {
		q = url.Values{}
	}
	q.Set("limit", pageSize)
	for {
		u := *r.base.JoinPath(path)
		u.RawQuery = q.Encode()
		next, found, goOn, err := get(&u)
		switch {
		case err != nil || !found:
			return found, err
		case next == "" || !goOn:
			return true, nil
		case next == q.Get("cursor"):
			return true, fmt.Errorf("GET %s: the next cursor is the same again", u.Redacted())
		}
		q.Set("cursor", next)
	}
}

// orders walks the orders of a status, all of them if it is empty, until visit
// returns false. It says whether the server has orders at all.
func (r orderReader) orders(ctx context.Context, status string, visit func([]storedOrder) bool) (bool, error) {
	q := url.Values{}
	if status != "" {
		q.Set("status", status)
	}
	return r.pages(ctx, "orders", q, func(u *url.URL) (string, bool, bool, error) {
		var page struct {
			Orders     []storedOrder `json:"orders"`
			NextCursor string        `json:"nextCursor"`
		}
		found, err := r.get(ctx, u, &page)
		return page.NextCursor, found, err != nil || !found || visit(page.Orders), err
	})
}

// anyOf says whether an order has one of the statuses and is not parked.
func (r orderReader) anyOf(ctx context.Context, statuses ...string) (bool, error) {
	some := false
	for _, status := range statuses {
		found, err := r.orders(ctx, status, func(page []storedOrder) bool {
			for i := range page {
				some = some || page[i].ParkedAt == nil
			}
			return !some
		})
		if err == nil && !found {
			err = fmt.Errorf("GET %s: 404; does this server take orders?", r.base.JoinPath("orders").Redacted())
		}
		if err != nil || some {
			return some, err
		}
	}
	return false, nil
}

// levels walks the stock.
func (r orderReader) levels(ctx context.Context, visit func([]storedLevel)) error {
	found, err := r.pages(ctx, "stock", nil, func(u *url.URL) (string, bool, bool, error) {
		var page struct {
			Stock      []storedLevel `json:"stock"`
			NextCursor string        `json:"nextCursor"`
		}
		found, err := r.get(ctx, u, &page)
		visit(page.Stock)
		return page.NextCursor, found, true, err
	})
	if err == nil && !found {
		err = fmt.Errorf("GET %s: 404; does this server take orders?", r.base.JoinPath("stock").Redacted())
	}
	return err
}

// charges walks the sandbox's ledger. It returns false if the server has none.
func (r orderReader) charges(ctx context.Context, visit func([]storedCharge)) (bool, error) {
	return r.pages(ctx, "sandbox/charges", nil, func(u *url.URL) (string, bool, bool, error) {
		var page struct {
			Charges    []storedCharge `json:"charges"`
			NextCursor string         `json:"nextCursor"`
		}
		found, err := r.get(ctx, u, &page)
		visit(page.Charges)
		return page.NextCursor, found, true, err
	})
}

// history asks for the transitions of an order, oldest first.
func (r orderReader) history(ctx context.Context, id string) ([]storedChange, bool, error) {
	var answer struct {
		History []storedChange `json:"history"`
	}
	found, err := r.get(ctx, r.base.JoinPath("orders", id, "history"), &answer)
	return answer.History, found, err
}
