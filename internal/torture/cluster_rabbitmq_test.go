package torture

import (
	"context"
	"errors"
	"math/rand/v2"
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
	// Only the position of the log keeps events from being stored twice here, where no
	// table remembers their ids.
	c.windowed = true
	c.env = append(c.env, "MILLRACE_EVENTS__DEDUPE__MODE=window") // the last one counts
	rabbit := servertest.RabbitMQ(t, servers.RabbitMQOptions{})
	c.env = append(c.env, "MILLRACE_BUS__DRIVER=rabbitmq", "MILLRACE_BUS__RABBITMQ__URLS=amqp://"+rabbit.Addr(),
		"MILLRACE_BUS__RABBITMQ__USER="+rabbit.User(), "MILLRACE_BUS__RABBITMQ__PASSWORD="+rabbit.Password())
	c.start(t.Context(), t, rabbitInstances)
	w := c.stage(t, stageOf{name: "RabbitMQ", tenant: "rabbit", within: 40 * time.Second, errors: true,
		fault: func(ctx context.Context, t *testing.T, c *cluster, w *crowd) { loseRabbitMQ(ctx, t, c, w, rabbit) }})
	w.checkOrders(t.Context(), t)
	c.stopAll(t.Context(), t)
}

func loseRabbitMQ(ctx context.Context, t *testing.T, c *cluster, w *crowd, rabbit *servers.RabbitMQ) {
	c.busUsed(ctx, t, 20*time.Second)
	loseCommits(ctx, t, c, rand.New(rand.NewPCG(1, 1)), setting(t, "TORTURE_CUTS", 40)/2)
	if err := rabbit.Kill(); err != nil {
		t.Fatal(err)
	}
	c.paidOn(ctx, t, "without RabbitMQ", 25*time.Second)
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
