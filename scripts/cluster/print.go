package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// print says where things are and what to try.
func (c *cluster) print(out io.Writer, s state) {
	dir := relative(c.dir)
	fmt.Fprintf(out, "\nMillrace runs as a cluster.\n\n  front door  %s    docs %s/docs\n", s.Front, s.Front)
	for _, i := range s.Instances {
		fmt.Fprintf(out, "  %s  %s    metrics %s/metrics    pid %d\n", i.Name, i.URL, i.Admin, c.readPID(i.Name))
	}
	fmt.Fprintf(out, "  behind      PostgreSQL and its replica, Redis, 3 NATS servers; pids in %s/*.pid\n", dir)
	fmt.Fprintf(out, "  logs        %s/supervisor.log, %s/millrace-*/millrace.log, %s/*/*.log\n", dir, dir, relative(s.Data))

	front := strings.NewReplacer("URL", s.Front, "DIR", dir)
	_, _ = front.WriteString(out, `
A token for tenant demo, all scopes, 24 hours; and how to mint others:

  TOKEN=$(cat DIR/token)
  DIR/bin/millrace token --data DIR/millrace-1/data --set auth.keyFile=DIR/secrets/issuer.key --tenant demo --subject me --scope "events:write events:read"

Send an event, and see it:

  curl -i URL/events -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '[{"type":"demo.hello","payload":{"answer":42}}]'
  curl 'URL/events?limit=5' -H "Authorization: Bearer $TOKEN"

Place an order in the demo's shop (again with the same Idempotency-Key, it is the same order), and wait until it is shipped:

  curl -i URL/orders -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -H 'Idempotency-Key: first-order' -d '{"items":[{"sku":"tee-black-m","quantity":1}],"paymentToken":"tok_ok","customer":{"email":"me@example.com"}}'
  ORDER=the id above
  curl "URL/orders/$ORDER/status?wait=30s" -H "Authorization: Bearer $TOKEN"

Kill an instance under load (it is started again after 3 s, and what it had accepted is in its log), and check that nothing is lost:

  export MILLRACE_TOKEN=$TOKEN
  DIR/bin/millrace load events --url URL --rate 5000 --duration 20s --retry --acked DIR/acked.tsv &
  kill -9 $(cat DIR/millrace-2.pid); go run ./scripts/cluster status
  wait; DIR/bin/millrace verify events --url URL --acked DIR/acked.tsv

Commands with an instance's configuration, such as doctor:

  (set -a; . DIR/millrace-1/env; DIR/bin/millrace doctor)

Stop everything: make cluster-down (KEEP=1 keeps the data)
`)
}

// relative shortens a path for a reader, who stands in the current directory.
func relative(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(wd, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return path
	}
	return "./" + rel
}
