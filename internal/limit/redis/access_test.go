package redis

import (
	"crypto/tls"
	"runtime"
	"strings"
	"testing"
	"time"

	"millrace/internal/limit"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

func TestWhoIsNotLetInIsToldWhatToDo(t *testing.T) {
	certificate := servertest.Certificate(t, "redis")
	trusting, err := certificate.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	plain := shared.Redis(t)
	secure := servertest.Redis(t, servers.RedisOptions{Options: servers.Options{TLS: certificate}})
	if _, err := plain.Do(testContext(t), "ACL", "SETUSER", "reader", "on", ">letmein-77", "~*", "+@read"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		server *servers.Redis
		change func(*Options)
		want   string // empty if it is let in
	}{
		{"the right password", plain, nil, ""},
		{"TLS", secure, func(o *Options) { o.TLS = trusting }, ""},
		{"another password", plain, func(o *Options) { o.Password = "hunter2" }, "it refuses the user or the password"},
		{"another user", plain, func(o *Options) { o.Username = "nobody" }, "it refuses the user or the password"},
		{"no password", plain, func(o *Options) { o.Password = "" }, "it wants a password"},
		{"a user who may only read", plain, func(o *Options) { o.Username, o.Password = "reader", "letmein-77" }, "the user may not do that; allow it"},
		{"another database", plain, func(o *Options) { o.DB = 9 }, "it has no database 9"},
		{"TLS where there is none", plain, func(o *Options) { o.TLS, o.DialTimeout = trusting, time.Second }, "if it does not speak TLS there, switch TLS off"},
		{"no TLS where there is", secure, nil, "switch TLS on"},
		{"a certificate of a stranger", secure, func(o *Options) { o.TLS = &tls.Config{ServerName: "localhost"} }, "its certificate is not trusted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := connectTo(t, c.server, func(o *Options) {
				o.DialTimeout = 10 * time.Second
				if c.change != nil {
					c.change(o)
				}
			})
			// Some are let in and may do nothing.
			err := r.Ping(testContext(t))
			if err == nil {
				_, err = r.Beat(testContext(t), "a", time.Second)
			}
			if c.want == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.server.Addr()) {
				t.Fatalf("got %v, want it to say %q of %s", err, c.want, c.server.Addr())
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "letmein") {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

func TestNobodyListensAndThenSomebodyDoes(t *testing.T) {
	server := servertest.Redis(t, servers.RedisOptions{})
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	r := connectTo(t, server, nil)
	if _, err := r.Beat(testContext(t), "a", time.Second); err == nil {
		t.Fatal("nobody is there, and answers")
	}
	if err := server.Restart(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Beat(testContext(t), "a", time.Second); err != nil || n != 1 {
		t.Errorf("got %d, %v", n, err)
	}
	r.Close()
	r.Close()
	if _, err := r.Beat(testContext(t), "a", time.Second); err != errClosed {
		t.Errorf("after Close: got %v, want %v", err, errClosed)
	}
	// The server was started again, and is watched by one goroutine or two.
	eventually(t, "its goroutines have ended", func() bool { return runtime.NumGoroutine() <= before+2 })
}

func TestAClusterWorksAsOneServerDoes(t *testing.T) {
	server := servertest.Redis(t, servers.RedisOptions{Cluster: true})
	r := connectTo(t, server, nil)
	var entries []limit.Entry
	for i := range 500 {
		entries = append(entries, limit.Entry{Limit: "events", Key: strings.Repeat("x", i), Total: int64(time.Hour)})
	}
	for _, e := range exchange(t, r, "a", entries...) {
		wantUsed(t, "a key in the cluster", &e, time.Hour)
	}
	e := limit.Entry{Limit: "events", Key: "x", Cost: int64(time.Hour), Bound: int64(2 * time.Hour)}
	if err := r.Take(testContext(t), &e); err != nil || !e.Allowed {
		t.Errorf("got %+v, %v", e, err)
	}
	if n, err := r.Beat(testContext(t), "a", time.Second); err != nil || n != 1 {
		t.Errorf("got %d, %v", n, err)
	}
	found := map[string]Check{}
	for _, c := range r.Examine(testContext(t)) {
		found[c.Name] = c
	}
	if found["cluster"].Grade != OK || found["version"].Grade != OK {
		t.Errorf("got %+v", found)
	}
}
