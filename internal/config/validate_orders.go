package config

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

func (v *validator) orders(c *Config) {
	p := c.Payments
	if p.Provider == "stripe" {
		if p.Stripe.SecretKey.value == "" {
			v.add("payments.stripe.secretKey", mask, "it is empty; set it to the secret key of the Stripe account, best by its variable")
		}
		if len(p.Stripe.WebhookSecrets) == 0 {
			v.add("payments.stripe.webhookSecrets", "[]", "it is empty, so no webhook of Stripe could be verified; set the signing secret of the endpoint")
		}
	}
	for i, s := range p.Stripe.WebhookSecrets {
		if s.value == "" || strings.TrimSpace(s.value) != s.value {
			v.add("payments.stripe.webhookSecrets", mask, "secret %d is empty or has white space around it; write it exactly as Stripe shows it", i+1)
		}
	}
	if u, err := url.Parse(p.Stripe.BaseURL); p.Stripe.BaseURL != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		v.add("payments.stripe.baseUrl", strconv.Quote(redactURL(p.Stripe.BaseURL)), "it is not an http or https URL; leave it empty for Stripe itself")
	}
	for _, n := range c.Webhooks.AllowedNets {
		if _, err := netip.ParsePrefix(n); err != nil {
			v.add("webhooks.allowedNets", strconv.Quote(n), "it is not a network; write one such as 10.1.0.0/16 or 127.0.0.1/32")
		}
	}
	if c.Orders.MaxBatch > c.Orders.QueueMax && v.good("orders.queueMax") {
		v.add("orders.maxBatch", strconv.Itoa(c.Orders.MaxBatch), "it is more than orders.queueMax (%d), so it could never be reached; make it smaller", c.Orders.QueueMax)
	}
	v.burst("orders.rate", c.Orders.Rate.PerSecond, c.Orders.Rate.Burst)
	if c.Demo.Enabled && p.Provider != "sandbox" {
		v.add("demo.enabled", "true", "the demo shop's customers pay with sandbox tokens; set payments.provider to sandbox, or the demo to false")
	}
}

func (v *validator) nats(n *NATS) {
	for one := range strings.SplitSeq(n.URL, ",") {
		if n.URL != "" {
			v.serviceURL("bus.nats.url", strings.TrimSpace(one), "nats://nats-1:4222 or tls://nats-1:4222", "bus.nats.user and bus.nats.password", "nats", "tls")
		}
	}
	ways := 0
	for _, set := range []bool{n.User != "", n.Token.value != "", n.CredsFile != ""} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		v.add("bus.nats.user", strconv.Quote(n.User), "user, token and credsFile exclude each other; set one of them")
	}
	if n.Password.value != "" && n.User == "" {
		v.add("bus.nats.user", `""`, "bus.nats.password is set and this is not; set it too")
	}
}
