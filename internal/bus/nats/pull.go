package nats

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

// Times of a puller.
const (
	pullExpiry    = 20 * time.Second // a request for messages ends after this, and is made anew
	pullHeartbeat = 5 * time.Second  // the broker's signs of life while it has no message
)

// puller asks the broker for messages of a consumer and hands them on, one at a
// time. The client library's own loop can lose a request when few messages are
// asked for at a time (it leaves out one that falls due while the one before is
// being sent, and then waits for a missed heartbeat), so this is ours.
type puller struct {
	nc      *natsgo.Conn
	subject string // of requests
	most    int    // messages asked for and not yet handed on
	hand    func(m *natsgo.Msg)
	trouble func(reason string)
	sub     *natsgo.Subscription
	ended   chan struct{} // closed when nothing is handed on any more

	mu      sync.Mutex // guards what follows
	owed    int        // messages the broker may still send
	handing bool
	sign    time.Time // the last sign of life
}

// pull starts a puller. hand may block. trouble is told what the broker reports
// and must not block.
func pull(nc *natsgo.Conn, stream, consumer string, most int, hand func(*natsgo.Msg), trouble func(string)) (*puller, error) {
	p := &puller{nc: nc, subject: "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + consumer, most: most, hand: hand, trouble: trouble,
		ended: make(chan struct{})}
	var err error
	if p.sub, err = nc.Subscribe(nc.NewInbox(), p.receive); err != nil {
		return nil, err
	}
	p.sub.SetClosedHandler(func(string) { close(p.ended) })
	p.again()
	return p, nil
}

// stop ends the puller. With drain, what was received goes to hand first. The
// channel ended tells when.
func (p *puller) stop(drain bool) {
	if drain && p.sub.Drain() == nil {
		return
	}
	_ = p.sub.Unsubscribe() // fails only if it has ended
}

// again forgets what was asked for and asks anew.
func (p *puller) again() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owed, p.sign = 0, time.Now()
	p.ask()
}

// silent says whether the broker has missed two signs of life.
func (p *puller) silent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.handing && time.Since(p.sign) > 2*pullHeartbeat
}

// ask requests messages if half of the most or less are owed. The mutex is held.
func (p *puller) ask() {
	if p.owed > p.most/2 {
		return
	}
	request := fmt.Appendf(nil, `{"batch":%d,"expires":%d,"idle_heartbeat":%d}`, p.most-p.owed, pullExpiry, pullHeartbeat)
	if p.nc.PublishRequest(p.subject, p.sub.Subject, request) == nil {
		p.owed = p.most
	} // otherwise the connection is down, and again is called when it is back
}

func (p *puller) receive(m *natsgo.Msg) {
	if len(m.Data) == 0 {
		if status := m.Header.Get("Status"); status != "" {
			p.told(status, m.Header)
			return
		}
	}
	p.mu.Lock()
	p.handing = true
	p.mu.Unlock()
	p.hand(m)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handing, p.sign = false, time.Now()
	p.owed = max(p.owed-1, 0)
	p.ask()
}

// told takes a word of the broker about a request.
func (p *puller) told(status string, header natsgo.Header) {
	reason := header.Get("Description")
	p.mu.Lock()
	p.sign = time.Now()
	left, err := strconv.Atoi(header.Get("Nats-Pending-Messages"))
	switch {
	case status == "100": // a sign of life
	case err == nil: // a request has ended, and so many of it were not sent
		p.owed = max(p.owed-left, 0)
		if status != "409" {
			p.ask()
		}
	}
	p.mu.Unlock()
	switch status {
	case "100", "404", "408":
	default:
		if status == "409" && strings.EqualFold(reason, "Batch Completed") {
			return
		}
		p.trouble(strings.TrimSpace(status + " " + reason))
	}
}
