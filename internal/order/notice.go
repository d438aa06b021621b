package order

import (
	"encoding/json"
	"strings"
)

// notice is the data of a webhook to the merchant: what it takes to pack and send
// an order, or to stop doing so.
type notice struct {
	OrderID    string `json:"orderId"`
	CustomerID string `json:"customerId"`
	// Version lets a receiver see which of two notices of an order is the newer.
	Version  int64         `json:"version"`
	Status   Status        `json:"status"`
	Items    []Line        `json:"items"`
	Total    money         `json:"total"`
	Refunded *money        `json:"refunded,omitempty"`
	Address  *Address      `json:"shippingAddress,omitempty"`
	Customer noticeContact `json:"customer,omitzero"`
	Note     string        `json:"note,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Shipment *Shipment     `json:"shipment,omitempty"`
}

type noticeContact struct {
	Email string `json:"email,omitempty"`
	Phone string `json:"phone,omitempty"`
}

// Events that the merchant is told besides "order." and a status.
const (
	noticePaid      = "order.paid"
	noticeCancelled = "order.cancelled"
)

// noticeOf returns what the merchant is told of an order. The id is made of the
// order and the event, and of which one it is where there may be several: each is
// told once.
func noticeOf(o *Order, event, which string) Notice {
	n := notice{OrderID: o.ID, Version: o.Version, CustomerID: o.CustomerID, Status: o.Status, Items: o.Lines, Total: money{o.Total, o.Currency},
		Address: o.Details.Address, Customer: noticeContact{o.Details.Email, o.Details.Phone}, Note: o.Details.Note,
		Reason: o.Progress.Reason, Shipment: o.Progress.Shipment}
	id := strings.TrimSuffix(o.ID+":"+event+":"+which, ":")
	if o.Refunded > 0 {
		n.Refunded = &money{o.Refunded, o.Currency}
	}
	data, _ := json.Marshal(n) // strings, numbers and times: cannot fail
	return Notice{TenantID: o.TenantID, OrderID: o.ID, ID: id, Event: event, At: o.UpdatedAt, Data: data, Trace: o.Details.Trace}
}
