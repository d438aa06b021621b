package order

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// codecVersion is the first byte of what Encode of a read writes: a binary whose
// orders look otherwise has another one and ignores what it finds. Raise it with
// every change of Order, Page or what they hold; a test says when.
const codecVersion = 1

// readable returns an order as it is kept for readers: without what only the
// payment needs, which never leaves the database, and without what no reader sees.
// What stays is the order as GET /orders/{id} shows it, names and addresses included.
func readable(o *Order) *Order {
	r := *o
	r.Details.PaymentToken, r.Details.Trace, r.Progress.PaymentRef = "", "", ""
	return &r
}

// encodeRead writes a value of a read for the remote level.
func encodeRead[V any](v V) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append([]byte{codecVersion}, text...), nil
}

// kept is what Reads keeps.
type kept interface {
	*Order | *Page
	// possible says what is wrong with what was decoded, nil or not: whoever can
	// write to the remote level may have written anything.
	possible() error
}

// decodeRead reads what encodeRead of the same version wrote, and refuses what it
// cannot have written.
func decodeRead[V kept](data []byte) (v V, err error) {
	if len(data) == 0 || data[0] != codecVersion {
		return v, fmt.Errorf("it was written by a version whose orders look otherwise; this one writes %d", codecVersion)
	}
	if err = json.Unmarshal(data[1:], &v); err == nil {
		err = v.possible()
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (o *Order) possible() error {
	if o == nil || o.TenantID == "" || o.ID == "" || o.Version < 1 || !slices.Contains(Statuses(), o.Status) {
		return errors.New("it is no order: tenant, id, version or status is missing")
	}
	return nil
}

func (p *Page) possible() error {
	if p == nil {
		return errors.New("it is no page of orders")
	}
	for i := range p.Orders {
		if err := p.Orders[i].possible(); err != nil {
			return err
		}
	}
	return nil
}

// Bytes that an order and its parts take in memory besides their texts, roughly.
const (
	orderBytes   = 640
	lineBytes    = 40
	addressBytes = 112
)

// weighOrder returns about how many bytes an order takes in memory.
func weighOrder(o *Order) int {
	n := orderBytes + len(o.TenantID) + len(o.ID) + len(o.CustomerID) + len(o.Currency) + len(o.LastError) +
		len(o.Details.Email) + len(o.Details.Phone) + len(o.Details.Note) + len(o.Progress.Reason)
	for i := range o.Lines {
		n += lineBytes + len(o.Lines[i].SKU)
	}
	if a := o.Details.Address; a != nil {
		n += addressBytes + len(a.Name) + len(a.Line1) + len(a.Line2) + len(a.PostalCode) + len(a.City) + len(a.Region) + len(a.Country)
	}
	if s := o.Progress.Shipment; s != nil {
		n += addressBytes + len(s.Carrier) + len(s.TrackingNumber) + len(s.TrackingURL)
	}
	return n
}

// weighPage returns about how many bytes a page takes in memory.
func weighPage(p *Page) int {
	n := len(p.Next)
	for i := range p.Orders {
		n += weighOrder(&p.Orders[i])
	}
	return n
}
