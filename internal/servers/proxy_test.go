package servers_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

var shared servertest.Shared

// throughProxy returns a proxy, a database behind it with a table, and its URL
// through the proxy.
func throughProxy(t *testing.T) (proxy *servers.Proxy, direct *pgx.Conn, dsn string) {
	t.Helper()
	p := shared.Postgres(t)
	proxy = servertest.PostgresProxy(t, p)
	db := servertest.Database(t, p)
	direct = connect(t, db)
	exec(t, direct, "CREATE TABLE kept (id int)")
	config, err := pgx.ParseConfig(db)
	if err != nil {
		t.Fatal(err)
	}
	return proxy, direct, p.DSNAt(proxy.Addr(), config.Database)
}

func happens(t *testing.T, f *servers.Fault) {
	t.Helper()
	select {
	case <-f.Done():
	case <-testContext(t).Done():
		t.Fatal("the fault did not happen")
	}
}

func TestALostCommitReplyLeavesTheTransactionCommitted(t *testing.T) {
	insert := func(c *pgx.Conn) error {
		ctx := context.Background()
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "INSERT INTO kept VALUES ($1)", 1)
			return err
		})
	}
	ways := map[string]func(c *pgx.Conn) error{
		"simple protocol": insert,
		"in one batch with the rest": func(c *pgx.Conn) error {
			var b pgx.Batch
			b.Queue("BEGIN")
			b.Queue("INSERT INTO kept VALUES ($1)", 1)
			b.Queue("COMMIT")
			return c.SendBatch(context.Background(), &b).Close()
		},
		"prepared long before": func(c *pgx.Conn) error {
			ctx := context.Background()
			if _, err := c.Prepare(ctx, "done", "commit"); err != nil {
				return err
			}
			if _, err := c.Exec(ctx, "BEGIN"); err != nil {
				return err
			}
			if _, err := c.Exec(ctx, "INSERT INTO kept VALUES (1)"); err != nil {
				return err
			}
			_, err := c.Exec(ctx, "done")
			return err
		},
		"several statements in one text": func(c *pgx.Conn) error {
			_, err := c.Exec(context.Background(), "BEGIN; INSERT INTO kept VALUES (1); COMMIT;", pgx.QueryExecModeSimpleProtocol)
			return err
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			proxy, direct, dsn := throughProxy(t)
			c := connect(t, dsn)
			fault := proxy.LoseCommitReply()
			if err := way(c); err == nil {
				t.Error("the client was told that it committed")
			}
			happens(t, fault)
			if fault.Outcome() != "COMMIT" {
				t.Errorf("the server had answered %q, want COMMIT", fault.Outcome())
			}
			if n := count(t, direct); n != 1 {
				t.Errorf("%d rows, want 1", n)
			}
			if err := insert(connect(t, dsn)); err != nil {
				t.Errorf("the next transaction: %v", err)
			}
		})
	}
}

func TestACommitThatIsCutDoesNotHappen(t *testing.T) {
	proxy, direct, dsn := throughProxy(t)
	c := connect(t, dsn)
	fault := proxy.CutCommit()
	err := pgx.BeginFunc(testContext(t), c, func(tx pgx.Tx) error {
		_, err := tx.Exec(context.Background(), "INSERT INTO kept VALUES (1)")
		return err
	})
	if err == nil {
		t.Error("the client was told that it committed")
	}
	happens(t, fault)
	if n := count(t, direct); n != 0 {
		t.Errorf("%d rows, want 0", n)
	}
}

func TestAFailedTransactionsLostReplyIsToldAsRollback(t *testing.T) {
	proxy, _, dsn := throughProxy(t)
	c := connect(t, dsn)
	ctx := testContext(t)
	exec(t, c, "BEGIN")
	if _, err := c.Exec(ctx, "SELECT 1/0", pgx.QueryExecModeSimpleProtocol); err == nil {
		t.Fatal("no error")
	}
	fault := proxy.LoseCommitReply()
	if _, err := c.Exec(ctx, "COMMIT"); err == nil {
		t.Error("the client got an answer")
	}
	happens(t, fault)
	if fault.Outcome() != "ROLLBACK" {
		t.Errorf("outcome %q, want ROLLBACK", fault.Outcome())
	}
}

// echo is a server that answers each line with itself.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

type client struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &client{c, bufio.NewReader(c)}
}

// say sends a line and returns the answer if it comes in time.
func (c *client) say(line string, within time.Duration) (string, error) {
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return "", err
	}
	return c.hear(within)
}

func (c *client) hear(within time.Duration) (string, error) {
	_ = c.SetReadDeadline(time.Now().Add(within))
	return c.in.ReadString('\n')
}

const soon, long = 100 * time.Millisecond, 20 * time.Second

func TestProxyFaults(t *testing.T) {
	proxy := servertest.Proxy(t, servers.ProxyOptions{Target: echo(t)})
	timedOut := func(err error) bool {
		var n net.Error
		return errors.As(err, &n) && n.Timeout()
	}
	mustEcho := func(t *testing.T, c *client) {
		t.Helper()
		if got, err := c.say("hello", long); err != nil || got != "hello\n" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	t.Run("cut ends open connections and takes new ones", func(t *testing.T) {
		c := dial(t, proxy.Addr())
		mustEcho(t, c)
		proxy.Cut()
		if _, err := c.hear(long); err == nil || timedOut(err) {
			t.Errorf("the connection was not cut: %v", err)
		}
		mustEcho(t, dial(t, proxy.Addr()))
	})
	t.Run("refuse keeps open connections and takes no new ones", func(t *testing.T) {
		c := dial(t, proxy.Addr())
		mustEcho(t, c)
		proxy.Refuse()
		mustEcho(t, c)
		if c, err := net.Dial("tcp", proxy.Addr()); err == nil {
			_ = c.Close()
			t.Error("a new connection was accepted")
		}
		if err := proxy.Pass(); err != nil {
			t.Fatal(err)
		}
		mustEcho(t, dial(t, proxy.Addr()))
	})
	t.Run("a black hole holds everything until it ends", func(t *testing.T) {
		c := dial(t, proxy.Addr())
		mustEcho(t, c)
		proxy.BlackHole()
		if got, err := c.say("kept", soon); !timedOut(err) {
			t.Errorf("got %q, %v in a black hole", got, err)
		}
		fresh := dial(t, proxy.Addr()) // is accepted
		if got, err := fresh.say("also", soon); !timedOut(err) {
			t.Errorf("got %q, %v in a black hole", got, err)
		}
		if err := proxy.Pass(); err != nil {
			t.Fatal(err)
		}
		if got, err := c.hear(long); got != "kept\n" {
			t.Errorf("after the black hole: %q, %v", got, err)
		}
		if got, err := fresh.hear(long); got != "also\n" {
			t.Errorf("after the black hole: %q, %v", got, err)
		}
	})
	t.Run("latency delays both directions", func(t *testing.T) {
		c := dial(t, proxy.Addr())
		mustEcho(t, c)
		proxy.Latency(50 * time.Millisecond)
		begin := time.Now()
		mustEcho(t, c)
		if took := time.Since(begin); took < 100*time.Millisecond {
			t.Errorf("took %s, want 100 ms at least", took)
		}
		if err := proxy.Pass(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a reply that is lost was still asked for", func(t *testing.T) {
		c := dial(t, proxy.Addr())
		mustEcho(t, c)
		fault := proxy.LoseReply(func(sent []byte) bool { return string(sent) == "pay\n" })
		mustEcho(t, c)
		if got, err := c.say("pay", long); err == nil || timedOut(err) {
			t.Errorf("got %q, %v", got, err)
		}
		happens(t, fault)
	})
	t.Run("cut after so many bytes", func(t *testing.T) {
		c := dial(t, proxy.Addr())
		fault := proxy.CutAfterBytes(9)
		mustEcho(t, c) // 6
		if got, err := c.say("hello", long); err == nil || timedOut(err) {
			t.Errorf("got %q, %v", got, err)
		}
		happens(t, fault)
	})
	t.Run("a fault that is disarmed does not happen", func(t *testing.T) {
		proxy.Disarm(proxy.CutAfterBytes(1))
		mustEcho(t, dial(t, proxy.Addr()))
	})
}
