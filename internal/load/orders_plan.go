package load

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// orderPlan is the endless sequence of orders. Number k is always the same order
// for the same options, whoever draws it; only its key is new in every run. It
// does not change and is safe for concurrent use.
type orderPlan struct {
	o          OrdersOptions
	ids        idMaker
	skus       []string
	popularity popularity // of the SKUs
	weights    []int      // summed weights by token
	head       string     // of a request, up to the key
	cancelHead [2]string  // of a cancellation, before and after the order's id
}

// orderLine is a line of an order: the number of its SKU and the units of it.
type orderLine struct {
	sku      int32
	quantity int64
}

// twice says whether and how an order is sent a second time.
type twice uint8

const (
	once       twice = iota
	atOnce           // beside the first
	afterwards       // after the first was answered
)

// plannedOrder is one order to place. Its slice is reused by the next.
type plannedOrder struct {
	key    idBytes
	lines  []orderLine
	token  int32 // index into the plan's tokens
	twice  twice
	cancel bool
}

func newOrderPlan(base *url.URL, o OrdersOptions) *orderPlan {
	p := &orderPlan{o: o, ids: newIDMaker(), skus: make([]string, o.SKUs)}
	for i := range p.skus {
		p.skus[i] = fmt.Sprintf("%s%05d", o.SKUPrefix, i+1)
	}
	p.popularity = popularityOf(o.SKUs, o.Zipf)
	total := 0
	for _, t := range o.Tokens {
		total += t.Weight
		p.weights = append(p.weights, total)
	}
	common := headers(base, o.Token)
	orders := base.JoinPath("orders").RequestURI()
	p.head = "POST " + orders + " HTTP/1.1\r\n" + common + "Content-Type: application/json\r\nIdempotency-Key: "
	p.cancelHead = [2]string{"POST " + orders + "/", "/cancel HTTP/1.1\r\n" + common + "Content-Length: 0\r\n\r\n"}
	return p
}

// headers are those of every request.
func headers(base *url.URL, token string) string {
	h := "Host: " + base.Host + "\r\nUser-Agent: millrace-load\r\n"
	if token != "" {
		h += "Authorization: Bearer " + token + "\r\n"
	}
	return h
}

// drawer draws orders for one goroutine.
type drawer struct {
	plan *orderPlan
	pcg  *rand.PCG
	rng  *rand.Rand
	body []byte
	next plannedOrder
}

func (p *orderPlan) drawer() *drawer {
	pcg := rand.NewPCG(0, 0)
	return &drawer{plan: p, pcg: pcg, rng: rand.New(pcg)}
}

// draw returns order number k, which is due at t. It is valid until the next
// call.
func (d *drawer) draw(k int, t time.Time) *plannedOrder {
	p := d.plan
	d.pcg.Seed(p.o.Seed, uint64(k))
	n := &d.next
	n.key = p.ids.at(t, uint32(k))
	n.lines = n.lines[:0]
	for range d.within(p.o.Lines) {
		n.lines = append(n.lines, orderLine{sku: d.sku(), quantity: int64(d.within(p.o.Quantity))})
	}
	n.token = 0
	if len(p.weights) > 1 {
		at := d.rng.IntN(p.weights[len(p.weights)-1])
		n.token = int32(slices.IndexFunc(p.weights, func(w int) bool { return at < w }))
	}
	n.twice, n.cancel = once, false
	if p.o.Duplicate > 0 && d.rng.Float64() < p.o.Duplicate {
		n.twice = atOnce + twice(d.rng.IntN(2))
	}
	if p.o.Cancel > 0 {
		n.cancel = d.rng.Float64() < p.o.Cancel
	}
	return n
}

func (d *drawer) within(s Span) int {
	if s.Min == s.Max {
		return s.Min
	}
	return s.Min + d.rng.IntN(s.Max-s.Min+1)
}

func (d *drawer) sku() int32 { return int32(d.plan.popularity.draw(d.rng, len(d.plan.skus))) }

// popularity holds the summed shares of things that are not drawn alike; nil when
// they are.
type popularity []float64

// popularityOf gives the k-th of n things a share in proportion to 1/k^zipf.
func popularityOf(n int, zipf float64) popularity {
	if zipf <= 0 {
		return nil
	}
	shares := make(popularity, n)
	sum := 0.0
	for i := range shares {
		sum += math.Pow(float64(i+1), -zipf)
		shares[i] = sum
	}
	return shares
}

// draw returns the number of one of n things.
func (p popularity) draw(rng *rand.Rand, n int) int {
	if p == nil {
		return rng.IntN(n)
	}
	i, _ := slices.BinarySearch(p, rng.Float64()*p[len(p)-1])
	return min(i, len(p)-1)
}

// render appends the whole HTTP request of an order to dst.
func (d *drawer) render(dst []byte, n *plannedOrder) []byte {
	d.body = appendOrderBody(d.body[:0], n.lines, d.plan.skus, d.plan.o.Tokens[n.token].Text)
	return appendOrderRequest(dst, d.plan.head, n.key, d.body)
}

func appendOrderBody(b []byte, lines []orderLine, skus []string, token string) []byte {
	b = append(b, `{"items":[`...)
	for i, l := range lines {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"sku":"`...)
		b = append(b, skus[l.sku]...)
		b = append(b, `","quantity":`...)
		b = strconv.AppendInt(b, l.quantity, 10)
		b = append(b, '}')
	}
	b = append(b, `],"paymentToken":"`...)
	b = append(b, token...)
	return append(b, `"}`...)
}

func appendOrderRequest(dst []byte, head string, key idBytes, body []byte) []byte {
	dst = append(dst, head...)
	dst = append(dst, blank[:idLen]...)
	key.put(dst[len(dst)-idLen:])
	dst = append(dst, "\r\nContent-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	dst = append(dst, "\r\n\r\n"...)
	return append(dst, body...)
}

// renderCancel appends the request that cancels an order.
func (p *orderPlan) renderCancel(dst []byte, id idBytes) []byte {
	dst = append(dst, p.cancelHead[0]...)
	dst = append(dst, blank[:idLen]...)
	id.put(dst[len(dst)-idLen:])
	return append(dst, p.cancelHead[1]...)
}
