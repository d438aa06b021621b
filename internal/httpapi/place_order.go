package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"millrace/internal/auth"
	"millrace/internal/order"
)

// maxOrderBytes bounds the body of an order: a hundred items, an address and a
// note fit many times.
const maxOrderBytes = 64 << 10

// postOrder places an order. The checks stand in the order of their cost, and all
// that can refuse without the body come before it is read.
func (sf *surface) postOrder(ctx context.Context, ex *exchange, r *http.Request) {
	s := sf.server
	p, refused := sf.authorize(ctx, ex, r, auth.ScopeOrdersWrite)
	if refused != nil {
		ex.refuse(refused)
		return
	}
	if refused := s.admitOrder(ex, p.TenantID); refused != nil {
		ex.refuse(refused)
		return
	}
	key, refused := idempotencyKey(r)
	if refused != nil {
		ex.refuse(refused)
		return
	}
	if refused := wantJSON(r); refused != nil {
		ex.refuse(refused)
		return
	}
	bd, refused := s.receive(ex, r, s.orders, holder{tenant: p.TenantID})
	if refused != nil {
		ex.refuse(refused)
		return
	}
	// Until the answer, so that the memory of orders under way is bounded: the
	// request holds as much again.
	defer bd.release()
	request, refused := decodeOrder(bd.data)
	if refused != nil {
		s.payOrder(ex, p.TenantID)
		ex.refuse(refused)
		return
	}
	request.TenantID, request.CustomerID, request.Key, request.Trace = p.TenantID, p.Subject, key, ex.Header()["Traceparent"][0]
	receipt, err := s.o.Orders.Place(ctx, request)
	s.payOrder(ex, p.TenantID)
	if err != nil {
		ex.refuse(problemOf(ctx, err))
		return
	}
	s.answerPlaced(ex, &receipt)
}

// admitOrder says whether an order may come now: whether any is taken, and whether
// the tenant is within its rate.
func (s *Server) admitOrder(ex *exchange, tenant string) *problem {
	if err := s.o.Orders.Admit(); err != nil {
		return problemOf(context.Background(), err)
	}
	if s.o.OrderRates == nil {
		return nil
	}
	d := s.o.OrderRates.Allow(tenant)
	if d.Allowed {
		return nil
	}
	s.rateHeaders(ex, &d)
	return usedUp(tenant, "orders", &d)
}

// payOrder takes what an order costs from the tenant's rate, and tells how the
// tenant stands. Those that were refused cost as much.
func (s *Server) payOrder(ex *exchange, tenant string) {
	if s.o.OrderRates != nil {
		d := s.o.OrderRates.Spend(tenant, 1)
		s.rateHeaders(ex, &d)
	}
}

// keyHeader is the header of draft-ietf-httpapi-idempotency-key-header, in the
// form in which net/http keeps it.
const keyHeader = "Idempotency-Key"

// idempotencyKey returns the request's Idempotency-Key.
func idempotencyKey(r *http.Request) (string, *problem) {
	values := r.Header[keyHeader]
	switch len(values) {
	case 0:
		return checkKey("")
	case 1:
		return checkKey(values[0])
	}
	return "", invalidHeader(keyHeader, "is there more than once; give it once")
}

// checkKey returns the key if it can be one.
func checkKey(key string) (string, *problem) {
	if key == "" {
		return "", newProblem(slugKeyMissing, "send the header Idempotency-Key with a new random value, such as a UUID, and the same value when you repeat the request")
	}
	fine := len(key) <= order.MaxKeyBytes
	for i := 0; fine && i < len(key); i++ {
		fine = key[i] > ' ' && key[i] <= '~'
	}
	if !fine {
		return "", invalidHeader(keyHeader, fmt.Sprintf("give 1 to %d printable ASCII characters without a space, such as a UUID", order.MaxKeyBytes))
	}
	return key, nil
}

// invalidHeader is the problem of a header that says something impossible.
func invalidHeader(name, message string) *problem {
	p := newProblem(slugInvalidParameter, "the header "+name+": "+message)
	p.Errors = []parameterError{{Location: "header." + name, Message: message}}
	return p
}

// wantJSON refuses a body that says it is something else.
func wantJSON(r *http.Request) *problem {
	values := r.Header["Content-Type"]
	if len(values) == 0 || values[0] == "application/json" {
		return nil
	}
	return checkMedia(values[0])
}

// The members of an order and its parts, in the order of the switches below.
var (
	orderMembers    = []string{"items", "paymentToken", "shippingAddress", "customer", "note"}
	itemMembers     = []string{"sku", "quantity"}
	addressMembers  = []string{"name", "line1", "line2", "postalCode", "city", "region", "country"}
	customerMembers = []string{"email", "phone"}
)

// decodeOrder reads the body of POST /orders, strictly: what is not known, comes
// twice or has another type is refused. What the values may be is for the domain
// to say. The request keeps nothing of the body.
func decodeOrder(body []byte) (order.Request, *problem) {
	var r order.Request
	if refused := checkJSON(body); refused != nil {
		return r, refused
	}
	w := walkJSON(body)
	w.members("", orderMembers, func(i int) {
		switch i {
		case 0:
			r.Items = decodeItems(&w)
		case 1:
			r.PaymentToken = w.word("paymentToken")
		case 2:
			r.Address = decodeAddress(&w)
		case 3:
			decodeCustomer(&w, &r)
		case 4:
			r.Note = w.word("note")
		}
	})
	return r, w.problem()
}

func decodeItems(w *jsonWalker) []order.Item {
	items := make([]order.Item, 0, 4)
	w.list("items", order.MaxLines, func() {
		var item order.Item
		errs := len(w.errs)
		seen := w.members("", itemMembers, func(i int) {
			switch i {
			case 0:
				item.SKU = w.word("sku")
			case 1:
				item.Quantity = w.whole("quantity")
			}
		})
		for i, name := range itemMembers {
			if seen&(1<<i) == 0 && len(w.errs) == errs {
				w.wrong(name, "is missing")
			}
		}
		items = append(items, item)
	})
	return items
}

func decodeAddress(w *jsonWalker) *order.Address {
	if w.isNull() {
		return nil
	}
	a := &order.Address{}
	fields := [...]*string{&a.Name, &a.Line1, &a.Line2, &a.PostalCode, &a.City, &a.Region, &a.Country}
	w.in = "shippingAddress"
	w.members("", addressMembers, func(i int) { *fields[i] = w.word(addressMembers[i]) })
	w.in = ""
	return a
}

func decodeCustomer(w *jsonWalker, r *order.Request) {
	if w.isNull() {
		return
	}
	fields := [...]*string{&r.Email, &r.Phone}
	w.in = "customer"
	w.members("", customerMembers, func(i int) { *fields[i] = w.word(customerMembers[i]) })
	w.in = ""
}

// valueReplayed says that a key had done it before.
var valueReplayed = []string{"true"}

// replayedHeader tells so.
const replayedHeader = "Idempotent-Replayed"

// answerPlaced answers an order that stands. A repeated request gets the same
// bytes, wherever the order is by now.
func (s *Server) answerPlaced(ex *exchange, receipt *order.Receipt) {
	h := ex.Header()
	values := [...]string{"/orders/" + receipt.Order.ID}
	h["Location"] = values[0:1:1]
	if receipt.Replayed {
		h[replayedHeader] = valueReplayed
	}
	buf := s.answers.Get().(*[]byte)
	*buf = appendPlaced((*buf)[:0], &receipt.Order)
	ex.answer(http.StatusAccepted, *buf)
	s.answers.Put(buf)
}

// appendPlaced appends the answer to a placed order.
func appendPlaced(b []byte, o *order.Order) []byte {
	b = append(b, `{"id":`...)
	b = appendString(b, o.ID)
	b = append(b, `,"status":"placed","statusUrl":"/orders/`...)
	b = append(append(b, o.ID...), `/status","total":{"amount":`...) // an id is a UUID
	b = strconv.AppendInt(b, o.Total, 10)
	b = append(b, `,"currency":`...)
	b = appendString(b, o.Currency)
	return append(b, '}', '}', '\n')
}
