package order

import (
	"encoding/json"
	"strconv"
	"time"
)

// Message is what a transition leaves in the outbox.
type Message struct {
	// Lane is where it goes: LaneBus or LaneEvents.
	Lane string
	// Subject is "orders." and the status on the bus, and the event's type
	// ("order.paid") among the events.
	Subject string
	// ID is the same whenever this transition is told.
	ID    string
	At    time.Time
	Trace string
	Data  []byte
}

// The lanes, as the outbox calls them.
const (
	LaneBus    = "bus"
	LaneEvents = "events"
)

// subjectPrefix and a status are the subject of a message on the bus.
const subjectPrefix = "orders."

// Told is the data of a message on the bus: which order, and which version of it
// the message speaks of. Everything else is asked of the store.
type Told struct {
	TenantID string `json:"tenantId"`
	OrderID  string `json:"orderId"`
	Version  int64  `json:"version"`
	Event    Event  `json:"event"`
}

// Happened is the data of a message to the event store.
type Happened struct {
	// Amount is the money that the event is about, in minor units, 0 if none: what
	// was placed, paid or refunded.
	Amount   int64           `json:"amount"`
	Currency string          `json:"currency"`
	Payload  json.RawMessage `json:"payload"`
}

// payload is what an order event carries.
type payload struct {
	OrderID    string `json:"orderId"`
	CustomerID string `json:"customerId"`
	Status     Status `json:"status"`
	Version    int64  `json:"version"`
	Total      money  `json:"total"`
	Amount     *money `json:"amount,omitempty"`
	Items      []Line `json:"items"`
	Reason     string `json:"reason,omitempty"`
}

type money struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

// messages returns what is told of a transition: nothing for one that leaves the
// order where it is and is only noted, one message for those who go on with the
// order, and one for the event store.
func messages(before, after *Order, s *Step) []Message {
	if s.Event == EventAttemptFailed || s.Event == EventChargeWithdrawn || s.Event == EventCaptured && before.Status == Cancelling {
		return nil
	}
	id := after.ID + "-" + strconv.FormatInt(after.Version, 10)
	trace := s.Trace
	if trace == "" {
		trace = after.Details.Trace
	}
	var list []Message
	if after.Status != Charging || s.Event == EventRedriven {
		list = append(list, Message{Lane: LaneBus, Subject: subjectPrefix + string(after.Status), ID: id, At: after.UpdatedAt, Trace: trace,
			Data: toldJSON(after, s.Event)})
	}
	if name := eventType(before, after, s); name != "" {
		list = append(list, Message{Lane: LaneEvents, Subject: name, ID: id, At: after.UpdatedAt, Trace: trace, Data: happenedJSON(before, after, s)})
	}
	return list
}

func toldJSON(o *Order, e Event) []byte {
	b, _ := json.Marshal(Told{o.TenantID, o.ID, o.Version, e}) // strings and a number: cannot fail
	return b
}

// eventType names a transition among the events, empty if it is none's business.
func eventType(before, o *Order, s *Step) string {
	switch s.Event {
	case EventRedriven, EventChargeIntended:
		return ""
	case EventRefunded:
		return "order.refunded" // a part of it too
	case EventSettledByHand:
		if before.Status == Refunding {
			return "order.refunded"
		}
	case EventDelivered:
		if o.Status != Completed {
			return ""
		}
	}
	return "order." + string(o.Status)
}

func happenedJSON(before, after *Order, s *Step) []byte {
	p := payload{OrderID: after.ID, CustomerID: after.CustomerID, Status: after.Status, Version: after.Version,
		Total: money{after.Total, after.Currency}, Items: after.Lines, Reason: s.Reason}
	var amount int64
	switch s.Event {
	case EventPlaced:
		amount = after.Total
	case EventCaptured:
		amount = after.Captured
	case EventRefunded, EventSettledByHand:
		amount = after.Refunded - before.Refunded
	}
	if amount > 0 {
		p.Amount = &money{amount, after.Currency}
	}
	body, _ := json.Marshal(p) // strings and numbers: cannot fail
	b, _ := json.Marshal(Happened{Amount: amount, Currency: after.Currency, Payload: body})
	return b
}
