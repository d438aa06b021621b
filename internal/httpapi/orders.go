package httpapi

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"go.opentelemetry.io/otel/trace"

	"millrace/internal/auth"
	"millrace/internal/order"
)

// money is an amount as the API shows and takes it.
type money struct {
	Amount   int64  `json:"amount" doc:"Minor units, such as cents." example:"1999"`
	Currency string `json:"currency" minLength:"3" maxLength:"3" doc:"ISO 4217, in capitals." example:"EUR"`
}

// orderView is an order as the API shows it.
type orderView struct {
	ID         string      `json:"id" format:"uuid" example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
	CustomerID string      `json:"customerId" doc:"The subject that placed it." example:"customer-17"`
	Status     string      `json:"status" enum:"placed,charging,paid,fulfilling,shipped,completed,payment_failed,cancelling,cancelled,expired,refunding,refunded" example:"paid"`
	Version    int64       `json:"version" doc:"1 when placed; rises with every transition." example:"3"`
	Items      []orderItem `json:"items" nullable:"false" doc:"By SKU, each once."`
	Total      money       `json:"total" doc:"What is owed."`
	Captured   money       `json:"captured" doc:"What was taken."`
	Refunded   money       `json:"refunded" doc:"What of that went back."`

	ShippingAddress *orderAddress  `json:"shippingAddress,omitempty"`
	Customer        *orderContact  `json:"customer,omitempty"`
	Note            string         `json:"note,omitempty" doc:"The buyer's."`
	Shipment        *orderShipment `json:"shipment,omitempty"`
	Refund          *orderRefund   `json:"refund,omitempty" doc:"The refund under way, or the last one."`
	Restocked       bool           `json:"restocked,omitempty" doc:"Whether what was shipped has been put back in stock by a refund."`
	Reason          string         `json:"reason,omitempty" doc:"Why it was cancelled, declined or refunded, in the words of whoever did it." example:"card_declined"`

	PlacedAt    time.Time  `json:"placedAt" example:"2026-11-22T08:30:00Z"`
	UpdatedAt   time.Time  `json:"updatedAt" example:"2026-11-22T08:30:00.125Z"`
	DeliveredAt *time.Time `json:"deliveredAt,omitempty"`
	Deadline    *time.Time `json:"deadline,omitempty" doc:"When it expires, while it is not paid."`

	Attempts      *int       `json:"attempts,omitempty" doc:"Failed tries of what is under way now. For orders:admin, as are the next three."`
	NextAttemptAt *time.Time `json:"nextAttemptAt,omitempty" doc:"When it is looked at next; absent: it is settled, or waits for someone outside."`
	LastError     string     `json:"lastError,omitempty" doc:"Why the last try failed."`
	ParkedAt      *time.Time `json:"parkedAt,omitempty" doc:"Since when nothing is tried: it is a dead letter and waits to be redriven."`
}

type orderItem struct {
	SKU       string `json:"sku" example:"tee-black-m"`
	Quantity  int64  `json:"quantity" example:"2"`
	UnitPrice money  `json:"unitPrice" doc:"The catalogue's price when it was placed."`
}

type orderAddress struct {
	Name       string `json:"name,omitempty" maxLength:"1000" example:"Ada Lovelace"`
	Line1      string `json:"line1,omitempty" maxLength:"1000" example:"12 Mill Lane"`
	Line2      string `json:"line2,omitempty" maxLength:"1000"`
	PostalCode string `json:"postalCode,omitempty" maxLength:"1000" example:"10115"`
	City       string `json:"city,omitempty" maxLength:"1000" example:"Berlin"`
	Region     string `json:"region,omitempty" maxLength:"1000"`
	Country    string `json:"country,omitempty" maxLength:"2" doc:"ISO 3166-1 alpha-2." example:"DE"`
}

type orderContact struct {
	Email string `json:"email,omitempty" maxLength:"254" example:"ada@example.org"`
	Phone string `json:"phone,omitempty" maxLength:"40" example:"+49 30 123456"`
}

type orderShipment struct {
	Carrier        string    `json:"carrier,omitempty" example:"Demo Post"`
	TrackingNumber string    `json:"trackingNumber,omitempty" example:"DP-4711"`
	TrackingURL    string    `json:"trackingUrl,omitempty" example:"https://post.example/DP-4711"`
	ShippedAt      time.Time `json:"shippedAt" example:"2026-11-22T09:00:00Z"`
}

type orderRefund struct {
	Number  int   `json:"number" doc:"Counts the order's refunds from 1." example:"1"`
	Amount  money `json:"amount"`
	Restock bool  `json:"restock,omitempty" doc:"Whether the goods go back on the shelf."`
}

type orderPage struct {
	Orders     []orderView `json:"orders" nullable:"false" doc:"Newest first."`
	NextCursor string      `json:"nextCursor" doc:"Give it as cursor to get the next page; empty on the last. A page of large orders may hold less than limit and not be the last."`
}

type orderHistory struct {
	History []orderChange `json:"history" nullable:"false" doc:"Oldest first."`
}

// orderChange is one transition that took place.
type orderChange struct {
	Version int64     `json:"version" doc:"The order's version after it." example:"3"`
	At      time.Time `json:"at" example:"2026-11-22T08:30:00.125Z"`
	Event   string    `json:"event" doc:"What happened." example:"captured"`
	From    string    `json:"from,omitempty" doc:"Absent when it was placed." example:"charging"`
	To      string    `json:"to" example:"paid"`
	Actor   string    `json:"actor" doc:"Who did it: a subject, or millrace itself. Without orders:admin merchant stands for all subjects but your own." example:"millrace"`
	Reason  string    `json:"reason,omitempty" doc:"Why. That of attempt_failed needs orders:admin."`
}

func showAmount(amount int64, o *order.Order) money { return money{amount, o.Currency} }

// showOrder shows an order; admin says that the reader may see how the work on it
// goes. The payment token is never shown.
func showOrder(o *order.Order, admin bool) orderView {
	v := orderView{
		ID: o.ID, CustomerID: o.CustomerID, Status: string(o.Status), Version: o.Version, Items: make([]orderItem, len(o.Lines)),
		Total: showAmount(o.Total, o), Captured: showAmount(o.Captured, o), Refunded: showAmount(o.Refunded, o),
		Note: o.Details.Note, Restocked: o.Progress.Restocked, Reason: o.Progress.Reason, PlacedAt: o.PlacedAt.UTC(), UpdatedAt: o.UpdatedAt.UTC(),
		DeliveredAt: optionalTime(o.Progress.DeliveredAt),
	}
	for i, l := range o.Lines {
		v.Items[i] = orderItem{SKU: l.SKU, Quantity: l.Quantity, UnitPrice: showAmount(l.UnitPrice, o)}
	}
	if a := o.Details.Address; a != nil {
		v.ShippingAddress = (*orderAddress)(a)
	}
	if o.Details.Email != "" || o.Details.Phone != "" {
		v.Customer = &orderContact{Email: o.Details.Email, Phone: o.Details.Phone}
	}
	if s := o.Progress.Shipment; s != nil {
		v.Shipment = &orderShipment{Carrier: s.Carrier, TrackingNumber: s.TrackingNumber, TrackingURL: s.TrackingURL, ShippedAt: s.At.UTC()}
	}
	if o.Progress.Refund.Number > 0 {
		r := showRefund(o.Progress.Refund, o)
		v.Refund = &r
	}
	if o.Status == order.Placed || o.Status == order.Charging {
		v.Deadline = optionalTime(o.Deadline)
	}
	if admin {
		v.Attempts, v.NextAttemptAt, v.LastError, v.ParkedAt = &o.Attempts, optionalTime(o.NextAttempt), o.LastError, optionalTime(o.ParkedAt)
	}
	return v
}

func showRefund(r order.Refund, o *order.Order) orderRefund {
	return orderRefund{Number: r.Number, Amount: showAmount(r.Amount, o), Restock: r.Restock}
}

// viewerOf says which orders a caller sees: with orders:admin the tenant's, else
// its own.
func viewerOf(p *auth.Principal) order.Viewer {
	v := order.Viewer{TenantID: p.TenantID}
	if !p.Has(auth.ScopeOrdersAdmin) {
		v.CustomerID = p.Subject
	}
	return v
}

// traceparentFrom returns the W3C traceparent of the request.
func traceparentFrom(ctx context.Context) string {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return ""
	}
	return formatTraceparent(trace.SpanContextConfig{TraceID: sc.TraceID(), SpanID: sc.SpanID(), TraceFlags: sc.TraceFlags()})
}

type orderInput struct {
	ID string `path:"id" maxLength:"64" doc:"The order's id." example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
	params
}

type (
	ordersInput      struct{ params }
	orderOutput      struct{ Body orderView }
	shownOrderOutput struct {
		CacheStatus string `header:"Cache-Status" doc:"Only if it may be out of date since the database cannot be read: the seconds since it was read are in ttl, below zero."`
		Body        orderView
	}
	orderPageOutput struct {
		CacheStatus string `header:"Cache-Status" doc:"Only if it may be out of date since the database cannot be read: the seconds since it was read are in ttl, below zero."`
		Body        orderPage
	}
	orderStoryOutput struct{ Body orderHistory }
)

// Who may do what to orders.
var (
	orderReaders = access{scopes: []auth.Scope{auth.ScopeOrdersRead, auth.ScopeOrdersAdmin}}
	orderBuyers  = access{scopes: []auth.Scope{auth.ScopeOrdersWrite, auth.ScopeOrdersAdmin}}
)

// registerOrderReads adds what shows orders.
func (sf *surface) registerOrderReads() {
	s, tags := sf.server, []string{"Orders"}
	registerFor(sf, huma.Operation{
		OperationID: "listOrders", Metadata: longRead(), Method: http.MethodGet, Path: "/orders", Tags: tags,
		Summary:     "List orders, newest first",
		Description: "Your own; with orders:admin all of the tenant's.",
		Parameters: []*huma.Param{
			queryParam("customerId", "Only this customer's. Those of others need orders:admin.", &huma.Schema{Type: huma.TypeString}, "customer-17"),
			queryParam("status", "Only orders of this status.", &huma.Schema{Type: huma.TypeString, Enum: statusEnum()}, "paid"), limitParam(), cursorParam()},
	}, orderReaders, s.listOrders)
	registerFor(sf, huma.Operation{
		OperationID: "getOrder", Method: http.MethodGet, Path: "/orders/{id}", Tags: tags,
		Summary: "Show one order", Description: "Your own; with orders:admin any of the tenant's.",
	}, orderReaders, s.getOrder)
	registerFor(sf, huma.Operation{
		OperationID: "getOrderHistory", Method: http.MethodGet, Path: "/orders/{id}/history", Tags: tags,
		Summary: "Show what happened to an order", Description: "Every transition: when, why and by whom.",
	}, orderReaders, s.getOrderHistory)
	sf.handle(http.MethodGet, "/orders/{id}/status", sf.getOrderStatus).quiet = true
}

func statusEnum() []any {
	var list []any
	for _, s := range order.Statuses() {
		list = append(list, string(s))
	}
	return list
}

func (s *Server) listOrders(ctx context.Context, in *ordersInput) (*orderPageOutput, error) {
	p, q := principalFrom(ctx), in.reader()
	v := viewerOf(p)
	query := order.Query{TenantID: p.TenantID, CustomerID: q.text("customerId", maxSubjectBytes)}
	words := make([]string, 0, len(order.Statuses()))
	for _, status := range order.Statuses() {
		words = append(words, string(status))
	}
	query.Status = order.Status(q.oneOf("status", words...))
	query.Limit = q.number("limit", defaultLimit, 1, maxLimit)
	query.Cursor = q.text("cursor", maxCursorBytes)
	if err := q.err(); err != nil {
		return nil, err
	}
	if v.CustomerID != "" && query.CustomerID != "" && query.CustomerID != v.CustomerID {
		return nil, scopeMissing(p, auth.ScopeOrdersAdmin)
	}
	list, err := s.o.Orders.CachedList(ctx, v, query)
	if err != nil {
		return nil, err
	}
	page := &list.Page
	out := &orderPageOutput{CacheStatus: s.staleStatus("/orders", list.Stale, list.Age), Body: orderPage{Orders: make([]orderView, len(page.Orders)), NextCursor: page.Next}}
	for i := range page.Orders {
		out.Body.Orders[i] = showOrder(&page.Orders[i], v.CustomerID == "")
	}
	return out, nil
}

// maxSubjectBytes bounds a customer id that is asked for.
const maxSubjectBytes = 256

func (s *Server) getOrder(ctx context.Context, in *orderInput) (*shownOrderOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	v := viewerOf(principalFrom(ctx))
	view, err := s.o.Orders.Cached(ctx, v, in.ID)
	if err != nil {
		return nil, err
	}
	return &shownOrderOutput{CacheStatus: s.staleStatus("/orders/{id}", view.Stale, view.Age), Body: showOrder(&view.Order, v.CustomerID == "")}, nil
}

func (s *Server) getOrderHistory(ctx context.Context, in *orderInput) (*orderStoryOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	v := viewerOf(principalFrom(ctx))
	entries, err := s.o.Orders.History(ctx, v, in.ID)
	if err != nil {
		return nil, err
	}
	out := &orderStoryOutput{Body: orderHistory{History: make([]orderChange, len(entries))}}
	for i, e := range entries {
		out.Body.History[i] = showChange(e, v.CustomerID)
	}
	return out, nil
}

// showChange shows one transition. A buyer, who is empty for the merchant, sees
// neither who works for the merchant nor what went wrong behind the counter.
func showChange(e order.HistoryEntry, buyer string) orderChange {
	c := orderChange{Version: e.Version, At: e.At.UTC(), Event: string(e.Event), From: string(e.From), To: string(e.To), Actor: e.Actor, Reason: e.Reason}
	if buyer == "" {
		return c
	}
	if e.Actor != buyer && e.Actor != order.System {
		c.Actor = "merchant"
	}
	if e.Event == order.EventAttemptFailed {
		c.Reason = ""
	}
	return c
}

// Commands.

type cancelRequest struct {
	Reason string `json:"reason,omitempty" maxLength:"1000" doc:"Why, for the history." example:"ordered twice"`
}

type refundRequest struct {
	Amount  *int64 `json:"amount,omitempty" minimum:"1" doc:"Minor units of the order's currency; absent: all that is left." example:"500"`
	Restock bool   `json:"restock,omitempty" doc:"Put the goods back on the shelf."`
	Reason  string `json:"reason,omitempty" maxLength:"1000" doc:"Why, for the history." example:"one was broken"`
}

type refundAccepted struct {
	OrderID string      `json:"orderId" format:"uuid" example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
	Refund  orderRefund `json:"refund"`
	Status  string      `json:"status" doc:"The order's status now." example:"refunding"`
}

type shipmentRequest struct {
	Carrier        string `json:"carrier,omitempty" maxLength:"1000" example:"Demo Post"`
	TrackingNumber string `json:"trackingNumber,omitempty" maxLength:"1000" example:"DP-4711"`
	TrackingURL    string `json:"trackingUrl,omitempty" maxLength:"1000" doc:"An http or https address." example:"https://post.example/DP-4711"`
}

type deliveryRequest struct{}

type settleRequest struct {
	Reason string `json:"reason" minLength:"1" maxLength:"1000" doc:"How the money went back." example:"bank transfer of 22 November"`
}

type (
	cancelInput struct {
		ID string `path:"id" maxLength:"64" doc:"The order's id." example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
		params
		Body *cancelRequest
	}
	refundInput struct {
		ID string `path:"id" maxLength:"64" doc:"The order's id." example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
		params
		Key  string `header:"Idempotency-Key" doc:"A new random value for each refund, such as a UUID; the same when the request is repeated." example:"5f0c7d1e-8a52-4f6b-9c51-0d9be1c7a2f4"`
		Body *refundRequest
	}
	shipmentInput struct {
		ID string `path:"id" maxLength:"64" doc:"The order's id." example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
		params
		Body *shipmentRequest
	}
	deliveryInput struct {
		ID string `path:"id" maxLength:"64" doc:"The order's id." example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
		params
		Body *deliveryRequest
	}
	settleInput struct {
		ID string `path:"id" maxLength:"64" doc:"The order's id." example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
		params
		Body settleRequest
	}
	refundOutput struct {
		Replayed string `header:"Idempotent-Replayed" doc:"true if the key had asked for it before."`
		Body     refundAccepted
	}
)

// registerOrderCommands adds what changes orders after they were placed.
func (sf *surface) registerOrderCommands() {
	s, tags := sf.server, []string{"Orders"}
	registerFor(sf, huma.Operation{
		OperationID: "cancelOrder", Metadata: hasProblems(slugOrderState, slugStoreUnavailable, slugOutcomeUnknown), Method: http.MethodPost, Path: "/orders/{id}/cancel", Tags: tags,
		Summary: "Cancel an order",
		Description: "Whatever was done for it is undone: stock is released, a charge voided or refunded. It goes until the order is shipped. " +
			"Repeating it is no error. Buyers cancel their own orders.",
	}, orderBuyers, s.cancelOrder)
	register(sf, huma.Operation{
		OperationID: "refundOrder", Metadata: hasProblems(slugKeyMissing, slugOrderState, slugKeyReused, slugStoreUnavailable, slugOutcomeUnknown), Method: http.MethodPost, Path: "/orders/{id}/refunds", Tags: tags, DefaultStatus: http.StatusAccepted,
		Summary: "Refund a shipped order, all or a part", Description: "The answer comes once the refund is sure to be made; the status tells when it was.",
	}, auth.ScopeOrdersAdmin, s.refundOrder)
	register(sf, huma.Operation{
		OperationID: "shipOrder", Metadata: hasProblems(slugOrderState, slugStoreUnavailable, slugOutcomeUnknown), Method: http.MethodPost, Path: "/orders/{id}/shipments", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Report that an order is on its way", Description: "Repeating it is no error and changes nothing.",
	}, auth.ScopeOrdersAdmin, s.shipOrder)
	register(sf, huma.Operation{
		OperationID: "deliverOrder", Metadata: hasProblems(slugOrderState, slugStoreUnavailable, slugOutcomeUnknown), Method: http.MethodPost, Path: "/orders/{id}/deliveries", Tags: tags,
		Summary: "Report that an order has arrived", Description: "Repeating it is no error and changes nothing.",
	}, auth.ScopeOrdersAdmin, s.deliverOrder)
	register(sf, huma.Operation{
		OperationID: "redriveOrder", Metadata: hasProblems(slugOrderState, slugStoreUnavailable, slugOutcomeUnknown), Method: http.MethodPost, Path: "/orders/{id}/redrive", Tags: tags,
		Summary: "Have a parked order worked on again", Description: "As redriving its dead letter does, and also when that is gone. An order that is not parked stays as it is.",
	}, auth.ScopeOrdersAdmin, s.redriveOrder)
	register(sf, huma.Operation{
		OperationID: "settleOrder", Metadata: hasProblems(slugOrderState, slugStoreUnavailable, slugOutcomeUnknown), Method: http.MethodPost, Path: "/orders/{id}/settle", Tags: tags,
		Summary: "Record that a parked order's money went back by another way",
		Description: "For an order whose refund the payment provider refuses for good. Nothing is asked of the provider; the order goes on as if it were refunded. " +
			"The reason stands in the history and the audit log.",
	}, auth.ScopeOrdersAdmin, s.settleOrder)
}

func (s *Server) redriveOrder(ctx context.Context, in *deliveryInput) (*orderOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	o, err := s.o.Orders.Redrive(ctx, commandFrom(ctx, in.ID, ""))
	return showAfter(ctx, o, err)
}

func (s *Server) settleOrder(ctx context.Context, in *settleInput) (*orderOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	o, err := s.o.Orders.SettleByHand(ctx, commandFrom(ctx, in.ID, in.Body.Reason))
	return showAfter(ctx, o, err)
}

// commandFrom returns a command of the caller about an order.
func commandFrom(ctx context.Context, id, reason string) order.Command {
	return order.Command{Viewer: viewerOf(principalFrom(ctx)), OrderID: id, Reason: reason, Trace: traceparentFrom(ctx), Actor: actorFrom(ctx)}
}

// showAfter shows an order after a command.
func showAfter(ctx context.Context, o order.Order, err error) (*orderOutput, error) {
	if err != nil {
		return nil, err
	}
	return &orderOutput{Body: showOrder(&o, principalFrom(ctx).Has(auth.ScopeOrdersAdmin))}, nil
}

func (s *Server) cancelOrder(ctx context.Context, in *cancelInput) (*orderOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	var body cancelRequest
	if in.Body != nil {
		body = *in.Body
	}
	o, err := s.o.Orders.Cancel(ctx, commandFrom(ctx, in.ID, body.Reason))
	return showAfter(ctx, o, err)
}

func (s *Server) refundOrder(ctx context.Context, in *refundInput) (*refundOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	key, refused := checkKey(in.Key)
	if refused != nil {
		return nil, refused
	}
	var body refundRequest
	if in.Body != nil {
		body = *in.Body
	}
	request := order.RefundRequest{Command: commandFrom(ctx, in.ID, body.Reason), Key: key, Restock: body.Restock}
	if body.Amount != nil {
		request.Amount = *body.Amount
	}
	receipt, err := s.o.Orders.Refund(ctx, request)
	if err != nil {
		return nil, err
	}
	o := &receipt.Order
	return &refundOutput{Replayed: replayed(receipt.Replayed), Body: refundAccepted{OrderID: o.ID, Refund: showRefund(receipt.Refund, o), Status: string(o.Status)}}, nil
}

// replayed is the value of the header that tells of a repeated request.
func replayed(yes bool) string {
	if yes {
		return "true"
	}
	return ""
}

func (s *Server) shipOrder(ctx context.Context, in *shipmentInput) (*orderOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	var shipment order.Shipment
	if in.Body != nil {
		shipment = order.Shipment{Carrier: in.Body.Carrier, TrackingNumber: in.Body.TrackingNumber, TrackingURL: in.Body.TrackingURL}
	}
	if shipment.TrackingURL != "" && !isWebAddress(shipment.TrackingURL) {
		return nil, invalidMember("trackingUrl", "is not an http or https address; mend it or leave it out")
	}
	o, err := s.o.Orders.Ship(ctx, order.ShipRequest{Command: commandFrom(ctx, in.ID, ""), Shipment: shipment})
	return showAfter(ctx, o, err)
}

// isWebAddress says whether a text can be shown as a link: other schemes run
// scripts.
func isWebAddress(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

func (s *Server) deliverOrder(ctx context.Context, in *deliveryInput) (*orderOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	o, err := s.o.Orders.Deliver(ctx, commandFrom(ctx, in.ID, ""))
	return showAfter(ctx, o, err)
}
