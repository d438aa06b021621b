package torture

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// clerk is the merchant's side: it ships what is paid, reports some of it as
// delivered, and gives money back for some, with and without the goods. It minds
// no failure: what it has asked for and was not answered it asks for again, as the
// order's status still says so.
type clerk struct {
	url, token string
	client     *http.Client
	// done counts what was answered 2xx, by kind.
	done map[string]int
	// strange is the first answer that a clerk must never get.
	strange string
}

func newClerk(url, token string) *clerk {
	return &clerk{url: url, token: token, client: &http.Client{Timeout: 5 * time.Second}, done: map[string]int{}}
}

// work goes round until ctx ends.
func (c *clerk) work(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		c.round(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// round takes a few orders of each status a step further. The last digits of an
// order's id decide what becomes of it, so every round decides alike.
func (c *clerk) round(ctx context.Context) {
	for _, o := range c.list(ctx, "fulfilling") {
		if lot(o.ID) < 12 { // the others stay on the shelf
			c.ask(ctx, "shipments", o.ID, "", `{"carrier":"Clerk","trackingNumber":"1"}`)
		}
	}
	for _, o := range c.list(ctx, "shipped") {
		switch lot(o.ID) {
		case 0, 1, 2, 3:
			c.ask(ctx, "deliveries", o.ID, "", `{}`)
		case 4, 5:
			c.ask(ctx, "refunds", o.ID, o.ID, `{"restock":true}`)
		case 6:
			c.ask(ctx, "refunds", o.ID, o.ID, `{"amount":1}`) // twice at the same key: once
		}
	}
	for _, o := range c.list(ctx, "completed") {
		if lot(o.ID) == 0 {
			c.ask(ctx, "refunds", o.ID, o.ID, `{}`)
		}
	}
}

// lot is a number from 0 to 15 that belongs to an order.
func lot(id string) int { return strings.IndexByte("0123456789abcdef", id[len(id)-1]) }

type listedOrder struct{ ID string }

func (c *clerk) list(ctx context.Context, status string) []listedOrder {
	var page struct{ Orders []listedOrder }
	_, body := c.request(ctx, http.MethodGet, "/orders?limit=100&status="+status, "", "")
	_ = json.Unmarshal(body, &page) // an error page lists nothing
	return page.Orders
}

func (c *clerk) ask(ctx context.Context, what, id, key, body string) {
	status, answer := c.request(ctx, http.MethodPost, "/orders/"+id+"/"+what, key, body)
	switch {
	case status/100 == 2:
		c.done[what]++
	case status == 0, status == http.StatusConflict, status >= 500, status == http.StatusTooManyRequests:
		// Away, cancelled meanwhile, or to be tried again.
	case c.strange == "":
		c.strange = fmt.Sprintf("POST /orders/%s/%s: %d %s", id, what, status, answer)
	}
}

// request returns status 0 when there is no answer.
func (c *clerk) request(ctx context.Context, method, path, key, body string) (int, []byte) {
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(body))
	if err != nil {
		return 0, []byte(err.Error())
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, nil
	}
	return resp.StatusCode, answer
}
