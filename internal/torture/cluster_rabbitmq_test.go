package torture

import (
	"context"
	"errors"
	"testing"
	"time"

	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// rabbitInstances is how many instances share RabbitMQ.
const rabbitInstances = 2

func TestNothingIsLostDoubledOrOversoldWhenRabbitMQDiesOrComesBackEmpty(t *testing.T) {
	if setting(t, "TORTURE_KILLS", 5) == 0 {
		t.Skip("TORTURE_KILLS=0")
	}
	c := newCluster(t.Context(), t)
	rabbit := servertest.RabbitMQ(t, servers.RabbitMQOptions{})
	c.env = append(c.env, "MILLRACE_BUS__DRIVER=rabbitmq", "MILLRACE_BUS__RABBITMQ__URLS=amqp://"+rabbit.Addr(),
		"MILLRACE_BUS__RABBITMQ__USER="+rabbit.User(), "MILLRACE_BUS__RABBITMQ__PASSWORD="+rabbit.Password())
	c.start(t.Context(), t, rabbitInstances)
	w := c.stage(t, stageOf{name: "RabbitMQ", tenant: "rabbit", within: 40 * time.Second,
		fault: func(ctx context.Context, t *testing.T, c *cluster, w *crowd) { loseRabbitMQ(ctx, t, c, w, rabbit) }})
	w.checkOrders(t.Context(), t)
	c.stopAll(t.Context(), t)
}

func loseRabbitMQ(ctx context.Context, t *testing.T, c *cluster, w *crowd, rabbit *servers.RabbitMQ) {
	c.busUsed(ctx, t, 20*time.Second)
	if err := rabbit.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, i := range c.instances {
		if err := c.probes.paid(ctx, 25*time.Second, i.server.URL); err != nil {
			t.Fatalf("without RabbitMQ %s gets no order paid: %v", i.name, err)
		}
	}
	if err := rabbit.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	c.busUsed(ctx, t, 40*time.Second)
	c.busy(ctx, t, w)
	if err := errors.Join(rabbit.Kill(), rabbit.RestartEmpty(ctx)); err != nil {
		t.Fatal(err)
	}
	c.busUsed(ctx, t, 40*time.Second)
}
