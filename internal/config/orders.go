package config

import "time"

// Orders bounds the way of an order from its placement to its end.
type Orders struct {
	PaymentDeadline time.Duration `key:"paymentDeadline" min:"10s" max:"720h" doc:"How long an order waits for its payment; then it expires and its stock is free again."`
	KeyTTL          time.Duration `key:"keyTtl" min:"1m" max:"8760h" doc:"How long an Idempotency-Key is remembered."`
	CompleteAfter   time.Duration `key:"completeAfter" min:"1s" max:"8760h" doc:"How long after its shipment an order counts as delivered if nobody says so."`
	MaxBatch        int           `key:"maxBatch" unit:"orders" min:"1" max:"4096" doc:"Most orders that share one transaction. 1 makes one transaction of each."`
	QueueMax        int           `key:"queueMax" unit:"orders" min:"1" max:"1000000" doc:"Most orders that wait to be placed; beyond it the answer is 503."`
	MaxAttempts     int           `key:"maxAttempts" unit:"attempts" min:"1" max:"1000" doc:"Failed attempts at one thing after which an order is parked as a dead letter."`
	Lease           time.Duration `key:"lease" min:"1s" max:"1h" doc:"How long an order may stand still before the sweeper looks at it."`
	Rate            OrderRate     `key:"rate" doc:"How fast one tenant's buyers may order. Beyond it the answer is 429."`
	Workers         Workers       `key:"workers" doc:"How many orders are worked on at once."`
}

// OrderRate limits how fast a tenant's buyers may order.
type OrderRate struct {
	PerSecond int   `key:"perSecond" unit:"orders/s" min:"0" doc:"Orders a second for each tenant, refused ones included; 0 is unlimited."`
	Burst     int   `key:"burst" unit:"orders" min:"0" doc:"Orders at once after a pause; 0 is what may come in two seconds."`
	Quota     Quota `key:"quota" doc:"A second limit over a longer time."`
	Exact     bool  `key:"exact" doc:"With Redis: ask it for each order, so that all instances together never let through more than one would; a request then waits for it. If false they tell each other what was spent every redis.syncEvery."`
}

// Workers bounds the work on orders.
type Workers struct {
	Enabled    bool `key:"enabled" doc:"Whether this instance works on orders; false only places them."`
	Payments   int  `key:"payments" unit:"orders" min:"1" max:"10000" doc:"Orders that are charged, looked up or refunded at once."`
	Fulfilment int  `key:"fulfilment" unit:"orders" min:"1" max:"10000" doc:"Orders that are handed to fulfilment at once."`
}

// Payments says who moves the money and how it is called.
type Payments struct {
	Provider      string        `key:"provider" enum:"sandbox|stripe" doc:"sandbox: nobody, tokens decide what happens (see the API's documentation). stripe: Stripe."`
	Timeout       time.Duration `key:"timeout" min:"100ms" max:"2m" doc:"Time one call to the provider may take."`
	MaxConcurrent int           `key:"maxConcurrent" unit:"calls" min:"1" max:"10000" doc:"Most calls to the provider at a time."`
	Stripe        Stripe        `key:"stripe" doc:"The account at Stripe."`
}

// Stripe is an account at Stripe.
type Stripe struct {
	SecretKey      Secret   `key:"secretKey" doc:"The secret or restricted API key."`
	WebhookSecrets []Secret `key:"webhookSecrets" doc:"The signing secrets of the webhook endpoint that points to POST /payments/stripe/webhook. Any of them may match."`
	BaseURL        string   `key:"baseUrl" doc:"Where the API is; empty is Stripe itself. For tests."`
}

// Webhooks bounds outgoing webhooks.
type Webhooks struct {
	AllowedNets   []string      `key:"allowedNets" doc:"Private or loopback networks that endpoints may be in, such as 10.1.0.0/16. All others that are not public are refused, after the name was resolved."`
	AllowHTTP     bool          `key:"allowHttp" doc:"Whether endpoints may be plain http. Those whose URL has an address in allowedNets may be in any case; those with a name may not, wherever it leads."`
	Timeout       time.Duration `key:"timeout" min:"100ms" max:"2m" doc:"Time an endpoint has to answer."`
	MaxConcurrent int           `key:"maxConcurrent" unit:"calls" min:"1" max:"10000" doc:"Most webhooks that are being delivered at a time: one tenant has at most a quarter of them, one endpoint an eighth and no more than 32, and endpoints that fail together half."`
	RetentionDays int           `key:"retentionDays" unit:"days" min:"1" max:"36500" doc:"Whole days that settled deliveries are kept for looking at."`
}

// Demo is a shop to try things with.
type Demo struct {
	Enabled bool `key:"enabled" doc:"Fill the catalogue and the stock of the tenant demo once, and run a small merchant that ships its orders."`
}

func defaultOrders() Orders {
	return Orders{
		PaymentDeadline: 30 * time.Minute, KeyTTL: 24 * time.Hour, CompleteAfter: 14 * 24 * time.Hour,
		MaxBatch: 256, QueueMax: 8192, MaxAttempts: 12, Lease: 15 * time.Second,
		Rate:    OrderRate{Quota: Quota{Window: time.Hour}},
		Workers: Workers{Enabled: true, Payments: 128, Fulfilment: 64},
	}
}

func defaultPayments() Payments {
	return Payments{Provider: "sandbox", Timeout: 10 * time.Second, MaxConcurrent: 128}
}

func defaultWebhooks() Webhooks {
	return Webhooks{Timeout: 10 * time.Second, MaxConcurrent: 256, RetentionDays: 14}
}
