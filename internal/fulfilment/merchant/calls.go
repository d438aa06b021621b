package merchant

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// maxAttempts is after how many failures an order is left to the next start.
	maxAttempts = 30
	maxBackoff  = 30 * time.Second
	maxPage     = 8 << 20 // bytes
)

// refusedError is an answer that is none of success. On its own it says that the
// same request will never succeed.
type refusedError struct{ status int }

func (e *refusedError) Error() string {
	return fmt.Sprintf("the API answered %d %s", e.status, http.StatusText(e.status))
}

// laterError says that the request may be repeated. It does not unwrap to its
// cause, which is no refusal then.
type laterError struct {
	cause error
	after time.Duration // 0: nothing was said
}

func (e *laterError) Error() string { return e.cause.Error() }

// work does what comes out of ready until ctx ends.
func (m *Merchant) work(ctx context.Context, ready <-chan *parcel) {
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-ready:
			m.step(ctx, p)
		}
	}
}

// step ships or delivers one order, once.
func (m *Merchant) step(ctx context.Context, p *parcel) {
	var err error
	switch path := "/orders/" + url.PathEscape(p.orderID); p.stage {
	case toShip:
		err = m.post(ctx, path+"/shipments", map[string]string{"carrier": "Demo Post", "trackingNumber": trackingNumber(p.orderID)})
	case toDeliver:
		err = m.post(ctx, path+"/deliveries", struct{}{})
	}
	var refused *refusedError
	switch {
	case err == nil && p.stage == toShip:
		p.stage, p.attempts = toDeliver, 0
		m.parcels.again(p, time.Now().Add(m.o.DeliverAfter))
	case err == nil:
		m.parcels.done(p)
	case ctx.Err() != nil:
	case errors.As(err, &refused):
		m.o.Logger.Warn("the demo merchant's report was refused, the order is left", "order", p.orderID, "error", err)
		m.parcels.done(p)
	case p.attempts >= maxAttempts:
		m.o.Logger.Warn("the demo merchant cannot report, the order is left to the next start", "order", p.orderID, "error", err)
		m.parcels.done(p)
	default:
		p.attempts++
		m.parcels.again(p, time.Now().Add(backoff(p.attempts, err)))
	}
}

// trackingNumber returns a number that looks like one and is the same for the
// same order.
func trackingNumber(orderID string) string {
	digits := strings.ToUpper(strings.ReplaceAll(orderID, "-", ""))
	return "DP" + digits[max(len(digits)-12, 0):]
}

// backoff returns the pause after the n-th failure: what the API asked for, or a
// time that doubles, with jitter.
func backoff(n int, err error) time.Duration {
	var later *laterError
	if errors.As(err, &later) && later.after > 0 {
		return min(later.after, maxBackoff)
	}
	full := min(250*time.Millisecond<<min(n, 10), maxBackoff)
	return full/2 + rand.N(full/2)
}

// post reports something. That it was reported before, or that the order has gone
// another way (409), is as good as success.
func (m *Merchant) post(ctx context.Context, path string, body any) error {
	payload, err := json.Marshal(body)
	if err != nil {
		return err
	}
	_, err = m.call(ctx, http.MethodPost, path, payload)
	var refused *refusedError
	if errors.As(err, &refused) && refused.status == http.StatusConflict {
		return nil
	}
	return err
}

// call asks the API once and returns its answer.
func (m *Merchant) call(ctx context.Context, method, path string, payload []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	token, err := m.o.Token(ctx)
	if err != nil {
		return nil, &laterError{cause: fmt.Errorf("no token for the API: %w", err)}
	}
	r, err := http.NewRequestWithContext(ctx, method, m.o.API()+path, bytes.NewReader(payload))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	resp, err := m.o.Client.Do(r)
	if err != nil {
		return nil, &laterError{cause: err}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	switch {
	case err != nil:
		return nil, &laterError{cause: err}
	case resp.StatusCode < 300:
		return answer, nil
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusUnauthorized:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // 0 if there is none
		return nil, &laterError{&refusedError{resp.StatusCode}, time.Duration(max(seconds, 0)) * time.Second}
	}
	return nil, &refusedError{resp.StatusCode}
}

// orderPage is what matters of a page of orders.
type orderPage struct {
	Orders []struct {
		ID string `json:"id"`
	} `json:"orders"`
	NextCursor string `json:"nextCursor"`
}

// catchUp takes up the orders that were under way before this process.
func (m *Merchant) catchUp(ctx context.Context) {
	for _, s := range []struct {
		status string
		next   stage
		after  time.Duration
	}{{"fulfilling", toShip, m.o.ShipAfter}, {"shipped", toDeliver, m.o.DeliverAfter}} {
		cursor, failures := "", 0
		for ctx.Err() == nil {
			page, err := m.page(ctx, s.status, cursor)
			if err != nil {
				var refused *refusedError
				if errors.As(err, &refused) || failures >= maxAttempts {
					m.o.Logger.Warn("the demo merchant cannot ask for orders under way; those of before this start are not shipped", "status", s.status, "error", err)
					break
				}
				failures++
				pause(ctx, backoff(failures, err))
				continue
			}
			failures = 0
			for _, o := range page.Orders {
				m.addWhenThereIsRoom(ctx, o.ID, s.next, s.after)
			}
			if cursor = page.NextCursor; cursor == "" {
				break
			}
		}
	}
}

func (m *Merchant) page(ctx context.Context, status, cursor string) (page orderPage, err error) {
	query := url.Values{"status": {status}}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	answer, err := m.call(ctx, http.MethodGet, "/orders?"+query.Encode(), nil)
	if err != nil {
		return page, err
	}
	return page, json.Unmarshal(answer, &page)
}

func (m *Merchant) addWhenThereIsRoom(ctx context.Context, orderID string, s stage, after time.Duration) {
	for ctx.Err() == nil && !m.parcels.add(orderID, s, time.Now().Add(after)) {
		select {
		case <-m.parcels.room:
		case <-ctx.Done():
		}
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
