package servers_test

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// quorumQueue declares the queue "kept" and returns how many messages are in it.
func quorumQueue(t *testing.T, r *servers.RabbitMQ) (*amqp.Channel, int) {
	t.Helper()
	config, err := r.TLSConfig()
	if err != nil {
		t.Fatal(err)
	}
	c, err := amqp.DialTLS(r.URL(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	ch, err := c.Channel()
	if err != nil {
		t.Fatal(err)
	}
	q, err := ch.QueueDeclare("kept", true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
	if err != nil {
		t.Fatal(err)
	}
	return ch, q.Messages
}

func TestRabbitMQKeepsWhatWasConfirmedWhenItIsKilledAndNothingWhenItRestartsEmpty(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	r := servertest.RabbitMQ(t, servers.RabbitMQOptions{})
	ch, _ := quorumQueue(t, r)
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	confirmation, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", "kept", true, false, amqp.Publishing{Body: []byte("one")})
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := confirmation.WaitContext(ctx); err != nil || !ok {
		t.Fatalf("not confirmed: %v", err)
	}
	if err := r.QueueOnDisk(ctx, "kept"); err != nil {
		t.Fatal(err)
	}
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := r.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	ch, _ = quorumQueue(t, r)
	if d, ok, err := ch.Get("kept", true); err != nil || !ok || string(d.Body) != "one" {
		t.Errorf("after kill and restart: %v, %v, %q", ok, err, d.Body)
	}
	if err := r.RestartEmpty(ctx); err != nil {
		t.Fatal(err)
	}
	c, err := amqp.Dial(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if ch, err = c.Channel(); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclarePassive("kept", true, false, false, false, nil); err == nil {
		t.Error("the queue is still there after an empty restart")
	}
}

func TestRabbitMQSpeaksTLS(t *testing.T) {
	t.Parallel()
	r := servertest.RabbitMQ(t, servers.RabbitMQOptions{Options: servers.Options{TLS: servertest.Certificate(t, "rabbitmq")}})
	quorumQueue(t, r)
}
