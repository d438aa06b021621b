package load

import "fmt"

// The life of an order as the documentation of the API promises it. It stands here
// a second time on purpose: a generator that took it from the server's code could
// not find what is wrong there.

// step is a transition of an order.
type step struct{ from, event, to string }

// allowedSteps is every transition there may be.
var allowedSteps = [...]step{
	{"", "placed", "placed"},

	{"placed", "charge_intended", "charging"},
	{"placed", "cancel_asked", "cancelled"},
	{"placed", "deadline_passed", "expired"},

	{"charging", "captured", "paid"},
	{"charging", "declined", "payment_failed"},
	{"charging", "charge_withdrawn", "placed"},
	{"charging", "attempt_failed", "charging"},
	{"charging", "cancel_asked", "cancelling"},
	{"charging", "deadline_passed", "cancelling"},
	{"charging", "redriven", "charging"},

	{"cancelling", "captured", "cancelling"},
	{"cancelling", "declined", "cancelled"},
	{"cancelling", "declined", "expired"},
	{"cancelling", "charge_resolved", "cancelled"},
	{"cancelling", "charge_resolved", "expired"},
	{"cancelling", "attempt_failed", "cancelling"},
	{"cancelling", "redriven", "cancelling"},
	{"cancelling", "settled_by_hand", "cancelled"},
	{"cancelling", "settled_by_hand", "expired"},

	{"paid", "sent", "fulfilling"},
	{"paid", "attempt_failed", "paid"},
	{"paid", "shipment_reported", "shipped"},
	{"paid", "cancel_asked", "refunding"},
	{"paid", "redriven", "paid"},

	{"fulfilling", "shipment_reported", "shipped"},
	{"fulfilling", "cancel_asked", "refunding"},

	{"shipped", "delivered", "completed"},
	{"shipped", "completion_due", "completed"},
	{"shipped", "refund_asked", "refunding"},

	{"completed", "refund_asked", "refunding"},

	{"refunding", "delivered", "refunding"},
	{"refunding", "attempt_failed", "refunding"},
	{"refunding", "refunded", "refunded"},
	{"refunding", "refunded", "shipped"},
	{"refunding", "refunded", "completed"},
	{"refunding", "redriven", "refunding"},
	{"refunding", "settled_by_hand", "refunded"},
	{"refunding", "settled_by_hand", "shipped"},
	{"refunding", "settled_by_hand", "completed"},
}

// working says whether an order of a status is being worked on by itself.
func working(status string) bool {
	switch status {
	case "placed", "charging", "cancelling", "paid", "refunding":
		return true
	}
	return false
}

// workingStatuses are those in the order in which an order passes them.
var workingStatuses = [...]string{"placed", "charging", "cancelling", "paid", "refunding"}

// faultOfHistory says what is wrong with the history of an order, "" if nothing
// is.
func faultOfHistory(o *heldOrder, history []storedChange) string {
	if len(history) == 0 {
		return "it has no history"
	}
	status, captures := "", 0
	for i, h := range history {
		switch {
		case h.Version != int64(i)+1:
			return fmt.Sprintf("entry %d of its history has version %d", i+1, h.Version)
		case h.From != status:
			return fmt.Sprintf("version %d of its history begins with %q, the one before ended with %q", h.Version, h.From, status)
		case !allowed(step{h.From, h.Event, h.To}):
			return fmt.Sprintf("version %d of its history is %s from %q to %q, which must not be", h.Version, h.Event, h.From, h.To)
		case i > 0 && h.At.Before(history[i-1].At):
			return fmt.Sprintf("version %d of its history is older than the one before", h.Version)
		}
		if h.Event == "captured" {
			captures++
		}
		status = h.To
	}
	switch last := history[len(history)-1]; {
	case last.Version < o.version:
		return fmt.Sprintf("its version is %d, its history ends with %d", o.version, last.Version)
	case last.Version == o.version && last.To != o.status:
		return fmt.Sprintf("it is %s, its history ends with %s", o.status, last.To)
	case last.Version == o.version && (captures > 0) != (o.captured > 0):
		return fmt.Sprintf("%d were captured, its history has %d captures", o.captured, captures)
	case captures > 1:
		return fmt.Sprintf("its history has %d captures", captures)
	}
	return ""
}

func allowed(s step) bool {
	for _, a := range allowedSteps {
		if a == s {
			return true
		}
	}
	return false
}
