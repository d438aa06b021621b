package app

import (
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"millrace/internal/auth"
	"millrace/internal/config"
)

// demoTenant is whose token the start-up message shows.
const demoTenant = "demo"

// demoSKU is what the start-up message orders.
const demoSKU = "tee-black-m"

// printBanner says where things are. Only a server that nobody but this machine
// can reach shows a token: anywhere else it would end up in a log.
func printBanner(out io.Writer, c *core, l *listeners) {
	base := baseURL(c, l)
	fmt.Fprintf(out, "\nmillrace %s\n\n", Version())
	if c.has(config.RoleAPI) {
		fmt.Fprintf(out, "  API      %s    docs %s/docs\n", base, base)
	} else {
		fmt.Fprintf(out, "  health   %s/readyz    roles %s\n", base, strings.Join(c.cfg.Roles, ", "))
	}
	if l.admin != nil {
		fmt.Fprintf(out, "  admin    http://%s/metrics\n", l.admin.Addr())
	}
	fmt.Fprintf(out, "  data     %s\n\n", c.dir.path)
	if !c.has(config.RoleAPI) {
		return
	}
	if !isLoopback(l.api.Addr()) {
		fmt.Fprintf(out, "Mint a token:\n\n  millrace token --data %s --tenant %s --subject me --scope \"events:write events:read\"\n\n", c.dir.path, demoTenant)
		return
	}
	token, err := c.issuer.Mint(auth.Claims{TenantID: demoTenant, Subject: "quick-start", Scopes: auth.MakeScopes(auth.ScopeAdmin), TTL: 24 * time.Hour})
	if err != nil {
		c.logger.Warn("no token for the start-up message", "error", err)
		return
	}
	fmt.Fprintf(out, "  token for tenant %s, all scopes, 24 hours:\n  %s\n\n", demoTenant, token)
	fmt.Fprintf(out, "Send an event:\n\n  curl -i %s/events -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' -d '[{\"type\":\"demo.hello\",\"payload\":{\"answer\":42}}]'\n\n", base, token)
	if c.cfg.Demo.Enabled {
		defer printOrder(out, base, token)
	}
	fmt.Fprintf(out, "See it:\n\n  curl '%s/events?limit=5' -H 'Authorization: Bearer %s'\n\n", base, token)
}

// printOrder shows how to place an order in the demo's shop and follow it.
func printOrder(out io.Writer, base, token string) {
	fmt.Fprintf(out, "Place an order in the demo's shop (again with the same Idempotency-Key, it is the same order):\n\n"+
		"  curl -i %s/orders -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' -H 'Idempotency-Key: first-order' "+
		"-d '{\"items\":[{\"sku\":\"%s\",\"quantity\":1}],\"paymentToken\":\"tok_ok\",\"customer\":{\"email\":\"me@example.com\"}}'\n\n", base, token, demoSKU)
	fmt.Fprintf(out, "Wait until the demo's merchant has shipped it (it takes a few seconds), see its history, and orders and revenue per minute:\n\n"+
		"  ORDER=the id above\n"+
		"  curl \"%[1]s/orders/$ORDER/status?wait=30s\" -H 'Authorization: Bearer %[2]s'\n"+
		"  curl \"%[1]s/orders/$ORDER/history\" -H 'Authorization: Bearer %[2]s'\n"+
		"  curl '%[1]s/events/stats?type=order.paid' -H 'Authorization: Bearer %[2]s'\n\n", base, token)
}

// baseURL is where the API is, seen from this machine.
func baseURL(c *core, l *listeners) string {
	scheme := "http"
	if c.cfg.HTTP.TLS.Enabled() {
		scheme = "https"
	}
	return scheme + "://" + l.api.Addr().String()
}

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
