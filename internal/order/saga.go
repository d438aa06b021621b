package order

// Status is where an order stands.
type Status string

// The statuses there are.
const (
	// None is the status of an order that is not there yet.
	None Status = ""

	Placed        Status = "placed"
	Charging      Status = "charging"
	Paid          Status = "paid"
	Fulfilling    Status = "fulfilling"
	Shipped       Status = "shipped"
	Completed     Status = "completed"
	PaymentFailed Status = "payment_failed"
	Cancelling    Status = "cancelling"
	Cancelled     Status = "cancelled"
	Expired       Status = "expired"
	Refunding     Status = "refunding"
	Refunded      Status = "refunded"

	// Then stands in the table for the status that the order remembers in
	// Progress.Then.
	Then Status = "(as remembered)"
)

// Statuses returns every status an order can have, in the order of a good course
// followed by the others.
func Statuses() []Status {
	return []Status{Placed, Charging, Paid, Fulfilling, Shipped, Completed, PaymentFailed, Cancelling, Cancelled, Expired, Refunding, Refunded}
}

// Event is something that happens to an order.
type Event string

// The events there are.
const (
	EventPlaced         Event = "placed"
	EventChargeIntended Event = "charge_intended"
	EventCaptured       Event = "captured"
	EventDeclined       Event = "declined"
	EventAttemptFailed  Event = "attempt_failed"
	EventCancelAsked    Event = "cancel_asked"
	EventDeadline       Event = "deadline_passed"
	EventChargeResolved Event = "charge_resolved"
	EventSent           Event = "sent"
	EventShipped        Event = "shipment_reported"
	EventDelivered      Event = "delivered"
	EventCompletionDue  Event = "completion_due"
	EventRefundAsked    Event = "refund_asked"
	EventRefunded       Event = "refunded"
	EventRedriven       Event = "redriven"
	// EventChargeWithdrawn takes the intention back before anything was sent.
	EventChargeWithdrawn Event = "charge_withdrawn"
	// EventSettledByHand says that a person has given the money back by another way.
	EventSettledByHand Event = "settled_by_hand"
)

// StockEffect is what a transition does to the stock of each line.
type StockEffect string

// The effects there are.
const (
	StockNone    StockEffect = ""
	StockReserve StockEffect = "reserve"
	// StockRelease lowers what is reserved.
	StockRelease StockEffect = "release"
	// StockShip lowers what is on hand and what is reserved.
	StockShip StockEffect = "ship"
	// StockSettle releases if nothing was shipped, and puts back on the shelf what
	// was shipped if that was asked for.
	StockSettle StockEffect = "release or restock"
)

// Transition is one row of the table.
type Transition struct {
	From  Status
	Event Event
	To    Status
	Stock StockEffect
	// Then is what Progress.Then becomes; empty leaves it.
	Then Status
	// Note says what else it means, for readers.
	Note string
}

// transitions is the saga: everything that can happen to an order. An event that
// has no row for an order's status changes nothing. The state diagram and the
// table in docs/architecture.md are drawn from it.
var transitions = [...]Transition{
	{None, EventPlaced, Placed, StockReserve, "", "committed with the idempotency key before the answer"},

	{Placed, EventChargeIntended, Charging, "", "", "durable before the provider is called"},
	{Placed, EventCancelAsked, Cancelled, StockRelease, "", ""},
	{Placed, EventDeadline, Expired, StockRelease, "", ""},

	{Charging, EventCaptured, Paid, "", "", ""},
	{Charging, EventDeclined, PaymentFailed, StockRelease, "", ""},
	{Charging, EventChargeWithdrawn, Placed, "", "", "nothing was sent: the provider is not available"},
	{Charging, EventAttemptFailed, Charging, "", "", "outcome unknown: look up before any further charge"},
	{Charging, EventCancelAsked, Cancelling, "", Cancelled, ""},
	{Charging, EventDeadline, Cancelling, "", Expired, ""},

	{Cancelling, EventCaptured, Cancelling, "", "", "captured meanwhile: to be refunded"},
	{Cancelling, EventDeclined, Then, StockRelease, "", ""},
	{Cancelling, EventChargeResolved, Then, StockRelease, "", "voided, or captured and refunded"},
	{Cancelling, EventAttemptFailed, Cancelling, "", "", "try again"},
	{Cancelling, EventSettledByHand, Then, StockRelease, "", "only while it is parked"},

	{Paid, EventSent, Fulfilling, "", "", "signed webhook enqueued"},
	{Paid, EventAttemptFailed, Paid, "", "", "try again"},
	{Paid, EventShipped, Shipped, StockShip, "", ""},
	{Paid, EventCancelAsked, Refunding, "", Refunded, "fulfilment is told"},

	{Fulfilling, EventShipped, Shipped, StockShip, "", ""},
	{Fulfilling, EventCancelAsked, Refunding, "", Refunded, "fulfilment is told"},

	{Shipped, EventDelivered, Completed, "", "", ""},
	{Shipped, EventCompletionDue, Completed, "", "", "a set time after the shipment"},
	{Shipped, EventRefundAsked, Refunding, "", Shipped, ""},

	{Completed, EventRefundAsked, Refunding, "", Completed, ""},

	{Refunding, EventDelivered, Refunding, "", Completed, "remembered, if it was shipped"},
	{Refunding, EventAttemptFailed, Refunding, "", "", "try again"},
	{Refunding, EventRefunded, Then, StockSettle, "", "refunded if nothing is left, else where it was"},
	{Refunding, EventSettledByHand, Then, StockSettle, "", "only while it is parked"},
}

// Transitions returns the saga as a table, in reading order.
func Transitions() []Transition { return transitions[:] }

// find returns the row for a status and an event, nil if there is none.
func find(from Status, e Event) *Transition {
	for i := range transitions {
		if transitions[i].From == from && transitions[i].Event == e {
			return &transitions[i]
		}
	}
	return nil
}

// Working says whether an order of this status is being worked on by itself: if
// nothing happens to it, the sweeper puts it back on the road.
func (s Status) Working() bool {
	switch s {
	case Placed, Charging, Cancelling, Paid, Refunding:
		return true
	}
	return false
}

// Terminal says whether no money and no stock is in doubt and nothing more
// happens by itself. Completed orders may still be refunded.
func (s Status) Terminal() bool {
	switch s {
	case Completed, PaymentFailed, Cancelled, Expired, Refunded:
		return true
	}
	return false
}

// Reserves says whether an order of this status holds stock, when nothing of it
// was shipped.
func (s Status) Reserves() bool {
	switch s {
	case Placed, Charging, Cancelling, Paid, Fulfilling, Refunding:
		return true
	}
	return false
}
