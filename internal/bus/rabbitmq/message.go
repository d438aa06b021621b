package rabbitmq

import (
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"millrace/internal/bus"
)

// Headers of our own, on messages that were delayed.
const (
	headerAttempts = "x-millrace-attempts" // deliveries before
	headerSubject  = "x-millrace-subject"  // the routing key was that of a queue
)

// headerCount is the broker's number of deliveries that were given back.
const headerCount = "x-delivery-count"

// escape marks a header whose name means something to the broker.
const escape = "h-"

// maxHeaderName is the protocol's bound.
const maxHeaderName = 255

// headerName returns a header's name on the broker.
func headerName(name string) string {
	if reserved(name) || strings.HasPrefix(name, escape) {
		return escape + name
	}
	return name
}

// reserved says whether a header's name means something to the broker: CC and BCC
// are further routing keys.
func reserved(name string) bool {
	return strings.HasPrefix(name, "x-") || name == "CC" || name == "BCC"
}

// outgoing is a message on its way to an exchange.
type outgoing struct {
	exchange, key string
	mandatory     bool
	message       amqp.Publishing
}

// convert returns messages as the client's, with a copy of their data: the client
// may still hold a message after its caller has given it up.
func convert(messages []bus.Message, exchange string, mode uint8) []outgoing {
	size := 0
	for i := range messages {
		size += len(messages[i].Data)
	}
	data := make([]byte, 0, size)
	out := make([]outgoing, len(messages))
	for i := range messages {
		m := &messages[i]
		begin := len(data)
		data = append(data, m.Data...)
		out[i] = outgoing{exchange: exchange, key: m.Subject, message: amqp.Publishing{
			Headers: table(m.Headers), MessageId: m.ID, DeliveryMode: mode, Body: data[begin:len(data):len(data)]}}
	}
	return out
}

func table(headers map[string]string) amqp.Table {
	if len(headers) == 0 {
		return nil
	}
	t := make(amqp.Table, len(headers))
	for name, value := range headers {
		t[headerName(name)] = value
	}
	return t
}

// delayed returns a delivery as a message to be delivered again after a delay.
func delayed(d *bus.Delivery, queue string, delay time.Duration) outgoing {
	out := convert([]bus.Message{d.Message}, "", amqp.Persistent)[0]
	out.key, out.mandatory = queue, true
	if out.message.Headers == nil {
		out.message.Headers = amqp.Table{}
	}
	out.message.Headers[headerAttempts] = int64(d.Attempt)
	out.message.Headers[headerSubject] = d.Subject
	out.message.Expiration = strconv.FormatInt(max((delay+time.Millisecond-1).Milliseconds(), 1), 10)
	return out
}

// received returns the client's message as the bus's.
func received(d *amqp.Delivery) bus.Message {
	out := bus.Message{Subject: d.RoutingKey, ID: d.MessageId, Data: d.Body}
	if s, ok := d.Headers[headerSubject].(string); ok {
		out.Subject = s
	}
	for name, v := range d.Headers {
		value, ok := v.(string)
		if !ok || reserved(name) {
			continue // not ours
		}
		if out.Headers == nil {
			out.Headers = make(map[string]string, len(d.Headers))
		}
		out.Headers[strings.TrimPrefix(name, escape)] = value
	}
	return out
}

// attempt returns which delivery of its message d is, 1 for the first.
func attempt(d *amqp.Delivery) int {
	n := 1 + number(d.Headers[headerAttempts]) + number(d.Headers[headerCount])
	if n == 1 && d.Redelivered {
		return 2
	}
	return n
}

// number returns a header's whole number, 0 if it is none.
func number(v any) int {
	var n int64
	switch v := v.(type) {
	case int64:
		n = v
	case int32:
		n = int64(v)
	case int16:
		n = int64(v)
	case int8:
		n = int64(v)
	case uint8:
		n = int64(v)
	case uint16:
		n = int64(v)
	case uint32:
		n = int64(v)
	}
	return int(min(max(n, 0), 1<<30))
}
