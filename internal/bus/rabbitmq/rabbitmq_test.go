package rabbitmq_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"millrace/internal/bus"
	"millrace/internal/bus/bustest"
	"millrace/internal/bus/rabbitmq"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// patience bounds every wait: only a failing test uses it up.
const patience = 60 * time.Second

// shared is the server of tests that do not stop it.
var shared servertest.Shared

// names tells apart what tests share a server.
var names atomic.Int64

// place is a name of its own on a server.
type place struct {
	server *servers.RabbitMQ
	prefix string
}

func newPlace(s *servers.RabbitMQ) *place {
	return &place{server: s, prefix: fmt.Sprintf("test-%d", names.Add(1))}
}

// options are those that reach the place.
func (p *place) options() rabbitmq.Options {
	return rabbitmq.Options{URLs: []string{"amqp://" + p.server.Addr()}, Username: p.server.User(), Password: p.server.Password(), Prefix: p.prefix,
		ReconnectWait: 50 * time.Millisecond}
}

func (p *place) Open(t testing.TB) bus.Bus {
	t.Helper()
	return open(t, p.options())
}

// Stop kills the server, once it has written down what queues it has: one killed
// before that keeps the name of a queue and can never use it again.
func (p *place) Stop(t testing.TB) {
	t.Helper()
	for _, queue := range p.queues(t) {
		if err := p.server.QueueOnDisk(within(t), queue); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.server.Kill(); err != nil {
		t.Fatal(err)
	}
}

func (p *place) Start(t testing.TB, empty bool) {
	t.Helper()
	restart := p.server.Restart
	if empty {
		restart = p.server.RestartEmpty
	}
	if err := restart(within(t)); err != nil {
		t.Fatal(err)
	}
}

// dial opens a connection and channel beside those of a Bus.
func (p *place) dial(t testing.TB) *amqp.Channel {
	t.Helper()
	c, err := amqp.Dial(p.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	ch, err := c.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// queues returns the names of the place's queues that the suite uses and are
// there.
func (p *place) queues(t testing.TB) []string {
	t.Helper()
	c, err := amqp.Dial(p.server.URL())
	if err != nil {
		return nil // it is stopped
	}
	defer func() { _ = c.Close() }()
	var there []string
	for _, name := range []string{".dropped", ".group.workers", ".group.payment", ".group.fulfilment"} {
		ch, err := c.Channel()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ch.QueueDeclarePassive(p.prefix+name, true, false, false, false, nil); err == nil {
			there = append(there, p.prefix+name)
		}
	}
	return there
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, o rabbitmq.Options) *rabbitmq.Bus {
	t.Helper()
	b, err := rabbitmq.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openFor returns a bus that is closed with the test.
func openFor(t testing.TB, o rabbitmq.Options) *rabbitmq.Bus {
	t.Helper()
	b := open(t, o)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestConformance(t *testing.T) {
	bustest.Run(t, func(t testing.TB) bustest.Broker {
		return newPlace(servertest.RabbitMQ(t, servers.RabbitMQOptions{}))
	}, bustest.Gaps{
		NoRepeats: true,
		Unstopped: func(t testing.TB) bustest.Broker { return newPlace(shared.RabbitMQ(t)) },
	})
}
