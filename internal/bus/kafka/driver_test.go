package kafka_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/internal/bus"
	"millrace/internal/bus/kafka"
	"millrace/internal/servers/servertest"
)

// patience bounds every wait; only a failing test uses it up.
const patience = 30 * time.Second

// fake is a cluster in this process, for faults of the protocol.
func fake(t testing.TB, o ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(o...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func openFor(t testing.TB, o kafka.Options) *kafka.Bus {
	b := open(t, o)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func admin(t testing.TB, addrs []string) *kadm.Client {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(addrs...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return kadm.NewClient(c)
}

func workers(t testing.TB) bus.Group {
	return bus.Group{Name: "workers", Subjects: []string{"orders.>"}, Concurrency: 4, AckWait: time.Minute, MaxAttempts: 5,
		Backoff: func(int) time.Duration { return 10 * time.Millisecond },
		DeadLetter: func(_ context.Context, d *bus.Delivery, reason error) error {
			t.Errorf("%s became a dead letter: %v", d.ID, reason)
			return nil
		}}
}

func join(t testing.TB, b *kafka.Bus, g bus.Group, h bus.Handler) bus.Subscription {
	t.Helper()
	s, err := b.Subscribe(t.Context(), g, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

func publish(t testing.TB, b *kafka.Bus, list ...bus.Message) {
	t.Helper()
	if err := b.Publish(t.Context(), list); err != nil {
		t.Fatal(err)
	}
}

func message(id string) bus.Message { return bus.Message{Subject: "orders.placed", ID: id} }

func receive[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
		panic("unreachable")
	}
}

// eventually asks again and again.
func eventually(t testing.TB, what string, met func() bool) {
	t.Helper()
	again, giveUp := time.NewTicker(10*time.Millisecond), time.After(patience)
	defer again.Stop()
	for !met() {
		select {
		case <-again.C:
		case <-giveUp:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func TestCredentialsAreAskedForAndNeverTold(t *testing.T) {
	t.Parallel()
	for _, mechanism := range []string{kafka.Plain, kafka.ScramSHA256, kafka.ScramSHA512} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			c := fake(t, kfake.EnableSASL(), kfake.Superuser(mechanism, "shop", "right-one"))
			o := kafka.Options{Brokers: c.ListenAddrs(), Username: "shop", Password: "right-one", Mechanism: mechanism}
			publish(t, openFor(t, o), message("m"))
			o.Password = "wrong-one"
			wantRefused(t, openFor(t, o), nil) // kfake ends the connection, as old brokers do
			c.ControlKey(int16(kmsg.SASLAuthenticate), func(r kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				answer := r.ResponseKind().(*kmsg.SASLAuthenticateResponse)
				answer.ErrorCode = kerr.SaslAuthenticationFailed.Code
				return answer, nil, true
			})
			wantRefused(t, openFor(t, o), kerr.SaslAuthenticationFailed)
		})
	}
}

func wantRefused(t *testing.T, b *kafka.Bus, cause error) {
	t.Helper()
	for what, err := range map[string]error{"Ping": b.Ping(t.Context()), "Publish": b.Publish(t.Context(), []bus.Message{message("m")})} {
		if !errors.Is(err, bus.ErrUnavailable) || (cause != nil && !errors.Is(err, cause)) || !strings.Contains(err.Error(), "check the user") {
			t.Errorf("%s with a wrong password: got %v, want ErrUnavailable because of %v, and what to do", what, err, cause)
		}
		if strings.Contains(fmt.Sprint(err), "wrong-one") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func TestTLSWithAClientCertificate(t *testing.T) {
	t.Parallel()
	certificate := servertest.Certificate(t, "kafka")
	config, err := certificate.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	c := fake(t, kfake.TLS(&tls.Config{MinVersion: tls.VersionTLS12, Certificates: config.Certificates, ClientCAs: config.RootCAs, ClientAuth: tls.RequireAndVerifyClientCert}),
		kfake.EnableSASL(), kfake.Superuser(kafka.ScramSHA512, "shop", "secret"))
	o := kafka.Options{Brokers: c.ListenAddrs(), Username: "shop", Password: "secret", TLS: config}
	publish(t, openFor(t, o), message("m"))
	o.TLS = config.Clone()
	o.TLS.Certificates = nil
	if err := openFor(t, o).Ping(t.Context()); !errors.Is(err, bus.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Ping without a certificate: got %v, want ErrUnavailable because of the certificate", err)
	}
}

// TestAMessageThatWaitsForItsNextAttemptHoldsUpNoOther has one that asks for an
// hour in the same partition as others, and in front of retries that are due.
func TestAMessageThatWaitsForItsNextAttemptHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	c := fake(t)
	o := quick(kafka.Options{Brokers: c.ListenAddrs()})
	o.Partitions = 1
	b, err := kafka.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	done := make(chan string, 100)
	join(t, b, workers(t), func(_ context.Context, d *bus.Delivery) error {
		if d.ID == "hour" {
			done <- d.ID
			return &bus.RetryError{After: time.Hour, Cause: errors.New("closed for lunch")}
		}
		if d.Attempt == 1 {
			return errors.New("broken")
		}
		done <- d.ID
		return nil
	})
	publish(t, b, message("hour"))
	if got := receive(t, "the first attempt", done); got != "hour" {
		t.Fatalf("got %s", got)
	}
	publish(t, b, message("1"), message("2"), message("3"))
	got := map[string]bool{}
	for range 3 {
		got[receive(t, "the second attempt of another", done)] = true
	}
	if diff := cmp.Diff(map[string]bool{"1": true, "2": true, "3": true}, got); diff != "" {
		t.Errorf("second attempts (-want +got):\n%s", diff)
	}
}

// TestThePositionStaysBehindWhatIsNotDoneWith has the first of ten messages stuck
// while the others are handled.
func TestThePositionStaysBehindWhatIsNotDoneWith(t *testing.T) {
	t.Parallel()
	c := fake(t)
	b := openFor(t, kafka.Options{Brokers: c.ListenAddrs()})
	handled, proceed := make(chan string, 20), make(chan struct{})
	join(t, b, workers(t), func(_ context.Context, d *bus.Delivery) error {
		if d.ID == "0" {
			<-proceed
		}
		handled <- d.ID
		return nil
	})
	t.Cleanup(sync(proceed)) // so that a failing test ends
	var list []bus.Message
	for i := range 10 {
		list = append(list, message(strconv.Itoa(i)))
	}
	publish(t, b, list...)
	for range 9 {
		receive(t, "a message behind the stuck one", handled)
	}
	adm := admin(t, c.ListenAddrs())
	position := func() (sum int64) {
		places, err := adm.FetchOffsets(t.Context(), "millrace.workers")
		if err != nil {
			t.Fatal(err)
		}
		places.Each(func(o kadm.OffsetResponse) {
			if strings.Contains(o.Topic, "messages") && o.At > 0 {
				sum += o.At
			}
		})
		return sum
	}
	// Messages of another call show that positions are committed at all.
	publish(t, b, message("other"))
	receive(t, "another message", handled)
	eventually(t, "the commit of the other partition's position", func() bool { return position() > 0 })
	if got := position(); got != 1 {
		t.Errorf("the group is %d messages on, want 1: that of another partition", got)
	}
	sync(proceed)()
	eventually(t, "the commit behind all", func() bool { return position() == 11 })
}

// sync returns what closes a channel once.
func sync(c chan struct{}) func() {
	return func() {
		select {
		case <-c:
		default:
			close(c)
		}
	}
}

// TestAMemberThatTheBrokerForgotHandsNothingIn answers a heartbeat as a broker does
// after a session timeout: the partitions are others' by then.
func TestAMemberThatTheBrokerForgotHandsNothingIn(t *testing.T) {
	t.Parallel()
	c := fake(t)
	b := openFor(t, kafka.Options{Brokers: c.ListenAddrs()})
	busy, ended := make(chan int, 20), make(chan error, 20)
	var deliveries atomic.Int64
	join(t, b, workers(t), func(ctx context.Context, d *bus.Delivery) error {
		if deliveries.Add(1) > 1 {
			busy <- d.Attempt
			return nil
		}
		busy <- d.Attempt
		<-ctx.Done()
		ended <- ctx.Err()
		return nil // counts for nothing
	})
	publish(t, b, message("m"))
	receive(t, "the handler at work", busy)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, TopLevel: true, Err: kerr.UnknownMemberID})
	if err := receive(t, "the end of the handler's context", ended); !errors.Is(err, context.Canceled) {
		t.Errorf("its context ended with %v, want Canceled", err)
	}
	if got := receive(t, "the delivery after joining again", busy); got != 1 {
		t.Errorf("it came as attempt %d, want 1", got)
	}
}

func TestALostTopicIsMadeAgainAndReadAgain(t *testing.T) {
	t.Parallel()
	c := fake(t)
	b := openFor(t, kafka.Options{Brokers: c.ListenAddrs()})
	var seen atomic.Int64
	join(t, b, workers(t), func(context.Context, *bus.Delivery) error { seen.Add(1); return nil })
	for range 20 {
		publish(t, b, message("before"))
	}
	eventually(t, "the messages before", func() bool { return seen.Load() >= 20 })
	if err := c.DeleteTopic("millrace.messages.orders"); err != nil {
		t.Fatal(err)
	}
	sent := int64(20)
	eventually(t, "a message after", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if b.Publish(ctx, []bus.Message{message("after")}) == nil {
			sent++
		}
		return seen.Load() > 20
	})
}

func TestAMessageTheTopicDoesNotTakeIsInvalid(t *testing.T) {
	t.Parallel()
	c := fake(t)
	if err := c.CreateTopic("millrace.messages.orders", 3, map[string]string{"max.message.bytes": "20000"}); err != nil {
		t.Fatal(err)
	}
	b := openFor(t, kafka.Options{Brokers: c.ListenAddrs()})
	err := b.Publish(t.Context(), []bus.Message{message("good"), {Subject: "orders.placed", Data: []byte(strings.Repeat("0123456789abcdef", 4<<10)[:60_000])}})
	var invalid *bus.InvalidError
	if err != nil && !errors.As(err, &invalid) {
		t.Errorf("got %v, want an InvalidError or, compressed, none", err)
	}
	f := b.Examine(t.Context())
	if !strings.Contains(strings.Join(f.Problems, "\n"), "raise its max.message.bytes") {
		t.Errorf("Examine does not tell of it: %q", f.Problems)
	}
}

func TestMetricsCountMessagesAndDeadLetters(t *testing.T) {
	t.Parallel()
	c := fake(t)
	reg := prometheus.NewPedanticRegistry()
	b := open(t, kafka.Options{Brokers: c.ListenAddrs(), Metrics: kafka.NewMetrics(reg)})
	buried := make(chan struct{})
	g := workers(t)
	g.MaxAttempts = 2
	g.DeadLetter = func(context.Context, *bus.Delivery, error) error { close(buried); return nil }
	s := join(t, b, g, func(context.Context, *bus.Delivery) error { return errors.New("broken") })
	publish(t, b, message("m"))
	receive(t, "the dead letter", buried)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{
		"millrace_bus_connected": 1, "millrace_bus_published_total": 1, "millrace_bus_delivered_total": 2, "millrace_bus_redelivered_total": 1,
		"millrace_bus_dead_lettered_total": 1, "millrace_bus_postponed_total": 1, "millrace_bus_partitions": 0, "millrace_bus_waiting": 0,
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if _, ok := want[f.GetName()]; ok {
			m := f.GetMetric()[0]
			got[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("the metrics' names and help: %v, %v", problems, err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func TestExamineTellsOfBrokersAndTopics(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.NumBrokers(3))
	b := openFor(t, kafka.Options{Brokers: c.ListenAddrs(), ReplicationFactor: 3})
	publish(t, b, message("m"))
	f := b.Examine(t.Context())
	if !f.Reachable || len(f.Brokers) != 3 || f.Controller == "" || f.Version == "" || len(f.Topics) != 2 {
		t.Errorf("the facts are %+v", f)
	}
	for _, topic := range f.Topics {
		if topic.Replicas != 3 || topic.MinInSync != 2 || topic.Unclean {
			t.Errorf("the topic's facts are %+v", topic)
		}
	}
	if len(f.Problems) > 0 {
		t.Errorf("problems of a healthy cluster: %q", f.Problems)
	}
	adm := admin(t, c.ListenAddrs())
	one, yes := "1", "true"
	if _, err := adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "min.insync.replicas", Value: &one}, {Name: "unclean.leader.election.enable", Value: &yes}}, "millrace.messages.orders"); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(b.Examine(t.Context()).Problems, "\n")
	for _, says := range []string{"min.insync.replicas to 2", "unclean.leader.election.enable to false"} {
		if !strings.Contains(text, says) {
			t.Errorf("the problems do not say %q: %s", says, text)
		}
	}
}

func TestTooFewBrokersForTheReplicasSaysSo(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.NumBrokers(1))
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.InvalidReplicationFactor, Count: -1})
	b := openFor(t, kafka.Options{Brokers: c.ListenAddrs(), ReplicationFactor: 3})
	_, err := b.Subscribe(t.Context(), workers(t), func(context.Context, *bus.Delivery) error { return nil })
	if err == nil || errors.Is(err, bus.ErrUnavailable) || !strings.Contains(err.Error(), "fewer brokers than the replication factor") {
		t.Errorf("got %v, want an error that says what is wrong", err)
	}
}

func TestWrongOptionsAreRefusedWithWhatIsWrong(t *testing.T) {
	at := []string{"localhost:9092"}
	for says, o := range map[string]kafka.Options{
		"Brokers is empty":       {},
		"must be host:port":      {Brokers: []string{"localhost"}},
		"needs its Username":     {Brokers: at, Password: "p"},
		"Mechanism is":           {Brokers: at, Mechanism: "GSSAPI"},
		"the prefix":             {Brokers: at, Prefix: "a.b"},
		"dotted words":           {Brokers: at, Subjects: []string{">"}},
		"ReplicationFactor is":   {Brokers: at, ReplicationFactor: -1},
		"Partitions is":          {Brokers: at, Partitions: 1001},
		"RetentionBytes is":      {Brokers: at, RetentionBytes: 1},
		"RetentionAge is":        {Brokers: at, RetentionAge: 1},
		"MaxMessageBytes is":     {Brokers: at, MaxMessageBytes: 1},
		"MaxPublishing is":       {Brokers: at, MaxPublishing: -1},
		"MaxUnanswered is":       {Brokers: at, MaxUnanswered: -1},
		"MaxWaitingBytes is":     {Brokers: at, MaxWaitingBytes: 1},
		"SessionTimeout is":      {Brokers: at, SessionTimeout: 1},
		"Heartbeat is":           {Brokers: at, Heartbeat: time.Hour},
		"ReconnectWait is negat": {Brokers: at, ReconnectWait: -1},
	} {
		b, err := kafka.New(o)
		if err == nil {
			_ = b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the error does not say %q: %v", says, err)
		}
	}
}
