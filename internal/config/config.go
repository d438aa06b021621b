package config

import "time"

// Config is the effective configuration. Sizes are bytes (Size), times are
// time.Duration; a zero means what the field's doc tag says, nothing else.
//
// Tags: key is the name in YAML; doc the meaning; unit the unit of a plain
// number; min and max the bounds, inclusive; enum the allowed values.
type Config struct {
	Data        string          `key:"data" doc:"Directory that holds everything durable: the log, the databases, the local issuer's key and the control socket. One server at a time holds it."`
	Instance    string          `key:"instance" doc:"Name of this instance among others, in logs, metrics and the database; empty makes one up and keeps it in the data directory."`
	Roles       []string        `key:"roles" enum:"api|sink|worker" doc:"What this instance does. api: serves the API. sink: brings accepted events into the database. worker: works on orders and delivers webhooks. Health is served in any case."`
	Store       Store           `key:"store" doc:"Where everything is kept but the log of accepted events."`
	Redis       Redis           `key:"redis" doc:"Redis, which lets instances share their limits."`
	HTTP        HTTP            `key:"http" doc:"The API listener."`
	Admin       Admin           `key:"admin" doc:"The listener for operators: metrics and profiles, without authentication."`
	Log         Log             `key:"log" doc:"The program's own log, on standard error."`
	Tracing     Tracing         `key:"tracing" doc:"OpenTelemetry traces. Trace ids are taken in, logged and passed on in any case."`
	Auth        Auth            `key:"auth" doc:"Who may call the API."`
	Events      Events          `key:"events" doc:"How events are taken in, kept and read."`
	DeadLetters DeadLetters     `key:"deadLetters" doc:"What could not be processed."`
	Hooks       map[string]Hook `key:"hooks" doc:"Incoming webhooks: POST /hooks/<name>."`
	Orders      Orders          `key:"orders" doc:"How orders are placed and brought to their end."`
	Payments    Payments        `key:"payments" doc:"Who moves the money."`
	Webhooks    Webhooks        `key:"webhooks" doc:"Outgoing webhooks, which tell merchants what became of their orders."`
	Catalog     Catalog         `key:"catalog" doc:"The catalogue."`
	Places      Places          `key:"places" doc:"Countries and cities."`
	Reads       Reads           `key:"reads" doc:"How reads are answered from memory."`
	Bus         Bus             `key:"bus" doc:"The message broker between the store and the workers. What is lost there is found again by the sweeper."`
	Demo        Demo            `key:"demo" doc:"A shop to try things with."`
}

// HTTP bounds the API listener.
type HTTP struct {
	Listen            string        `key:"listen" doc:"Address of the API, host:port. An empty host means all interfaces, port 0 a free port."`
	MaxConnections    int           `key:"maxConnections" unit:"connections" min:"1" max:"1000000" doc:"Most connections open at a time."`
	MaxHeaderBytes    Size          `key:"maxHeaderBytes" min:"4KiB" max:"1MiB" doc:"Most bytes of a request's headers."`
	ReadHeaderTimeout time.Duration `key:"readHeaderTimeout" min:"100ms" max:"5m" doc:"Time a client has to send a request's headers."`
	BodyTimeout       time.Duration `key:"bodyTimeout" min:"100ms" max:"1h" doc:"Time a client has to send a request's body; slower ones get 408."`
	IdleTimeout       time.Duration `key:"idleTimeout" min:"1s" max:"1h" doc:"Time a connection may stay open between two requests."`
	RequestTimeout    time.Duration `key:"requestTimeout" min:"1s" max:"1h" doc:"Time a request may take in all, its body included. Live streams are exempt."`
	MaxInflightBytes  Size          `key:"maxInflightBytes" min:"8MiB" max:"64GiB" doc:"Most bytes of request bodies held in memory at a time; beyond it the answer is 503."`
	DrainDelay        time.Duration `key:"drainDelay" min:"0s" max:"5m" doc:"When the server is stopped: how long requests are still taken while /readyz fails already, so that load balancers notice. It is part of shutdownTimeout."`
	ShutdownTimeout   time.Duration `key:"shutdownTimeout" min:"1s" max:"10m" doc:"Time that requests in flight have to finish when the server is stopped."`
	TLS               TLS           `key:"tls" doc:"Serve HTTPS. The files are read again when they change."`
}

// TLS names the certificate of the API listener.
type TLS struct {
	CertFile string `key:"certFile" doc:"PEM file with the certificate and its chain; empty serves plain HTTP."`
	KeyFile  string `key:"keyFile" doc:"PEM file with the certificate's private key."`
}

// Enabled reports whether the listener serves HTTPS.
func (t TLS) Enabled() bool { return t.CertFile != "" }

// Admin is the listener for operators.
type Admin struct {
	Listen string `key:"listen" doc:"Address of /metrics and /debug/pprof, host:port; empty switches it off. Keep it off public networks."`
}

// Log says how the program logs.
type Log struct {
	Level  string `key:"level" enum:"debug|info|warn|error" doc:"Least severe level that is logged."`
	Format string `key:"format" enum:"auto|json|text" doc:"Form of a line; auto is text on a terminal and JSON elsewhere."`
}

// Tracing says where traces go.
type Tracing struct {
	Endpoint    string  `key:"endpoint" doc:"URL of an OTLP/HTTP collector, such as http://localhost:4318; empty sends nothing."`
	SampleRatio float64 `key:"sampleRatio" min:"0" max:"1" doc:"Share of requests that are traced when the caller has not decided."`
}

// Auth says which credentials are taken.
type Auth struct {
	KeyFile      string        `key:"keyFile" doc:"File with the key of this server's own issuer; empty is issuer.key in the data directory, made on first use. Instances that stand for each other need the same."`
	Issuer       string        `key:"issuer" doc:"The 'iss' of tokens that this server's own issuer makes and accepts."`
	Audience     string        `key:"audience" doc:"The 'aud' of tokens that this server's own issuer makes and accepts."`
	Leeway       time.Duration `key:"leeway" min:"0s" max:"5m" doc:"How far the clocks of issuer and server may be apart."`
	CacheEntries int           `key:"cacheEntries" unit:"entries" min:"1" max:"10000000" doc:"Most verified credentials that are remembered, so that a signature is checked once."`
	JWKS         JWKS          `key:"jwks" doc:"An external issuer, accepted beside the own one."`
}

// JWKS is an external issuer of tokens.
type JWKS struct {
	URL         string   `key:"url" doc:"Where the issuer publishes its keys (https; http only on the loopback); empty accepts no external tokens."`
	Issuer      string   `key:"issuer" doc:"The 'iss' that the external tokens must carry."`
	Audience    string   `key:"audience" doc:"The 'aud' that the external tokens must carry."`
	Algorithms  []string `key:"algorithms" enum:"RS256|RS384|RS512|PS256|PS384|PS512|ES256|ES384|ES512|EdDSA" doc:"Signature algorithms that are accepted. Only asymmetric ones exist here."`
	TenantClaim string   `key:"tenantClaim" doc:"The claim that names the tenant."`
}

// Events bounds the way of events from the socket to a query.
type Events struct {
	Ack                string        `key:"ack" enum:"wal|store|memory|stream" doc:"When a batch is answered 202. wal: once it is in the log on disk. store: once the database has it. memory: at once, so a crash loses what was just accepted. stream: once the bus's servers have it replicated, for instances without a disk to keep (needs NATS servers of its own, or Kafka)."`
	MaxBatchEvents     int           `key:"maxBatchEvents" unit:"events" min:"1" max:"10000" doc:"Most events of one request."`
	MaxBodyBytes       Size          `key:"maxBodyBytes" min:"1KiB" max:"4MiB" doc:"Most bytes of one request's body, after decompression."`
	MaxEventBytes      Size          `key:"maxEventBytes" min:"256B" max:"4MiB" doc:"Most bytes of one event; a bigger one is rejected, the rest of its batch is not."`
	MaxDepth           int           `key:"maxDepth" unit:"levels" min:"2" max:"1000" doc:"Deepest nesting of one event."`
	BacklogMaxBytes    Size          `key:"backlogMaxBytes" min:"16MiB" doc:"Most bytes on disk that are accepted but not yet in the database. Full: 503. At 90 % /readyz fails."`
	DiskReserveBytes   Size          `key:"diskReserveBytes" min:"0B" doc:"Free space on the disk below which nothing more is accepted (503); service resumes by itself."`
	SegmentBytes       Size          `key:"segmentBytes" min:"8MiB" max:"1GiB" doc:"Size of one file of the log."`
	QueueMaxBytes      Size          `key:"queueMaxBytes" min:"1MiB" max:"16GiB" doc:"Most bytes in memory that wait for the next write to the log; beyond it the answer is 503."`
	StoreAckTimeout    time.Duration `key:"storeAckTimeout" min:"100ms" max:"10m" doc:"With ack store: how long a request waits for the database before it is answered 503 with an unknown outcome."`
	RetentionDays      int           `key:"retentionDays" unit:"days" min:"0" max:"36500" doc:"Whole days, by time of receipt, that events are kept; 0 keeps them for ever."`
	DeadLetterMaxBytes Size          `key:"deadLetterMaxBytes" min:"1KiB" max:"1MiB" doc:"Most bytes that are kept of a body in which no events could be found."`
	Dedupe             Dedupe        `key:"dedupe" doc:"What happens when a client sends an event again."`
	Stream             Stream        `key:"stream" doc:"The replicated stream of ack stream."`
	Sink               Sink          `key:"sink" doc:"The way from the log into the database."`
	Rate               Rate          `key:"rate" doc:"How fast one tenant may send. Beyond it the answer is 429."`
	Tail               Tail          `key:"tail" doc:"Live streams of events."`
}

// Dedupe says what happens to events that arrive again.
type Dedupe struct {
	Mode        string        `key:"mode" enum:"window|exact|off" doc:"window: remembered in memory for a while. exact: claimed in the database, for days. off: every event is kept."`
	Window      time.Duration `key:"window" min:"1s" max:"24h" doc:"How long the window remembers an event, as far as its memory reaches."`
	MemoryBytes Size          `key:"memoryBytes" min:"1MiB" max:"64GiB" doc:"Memory of the window. When it is full the oldest are forgotten first."`
	ExactDays   int           `key:"exactDays" unit:"days" min:"1" max:"36500" doc:"With mode exact: for how many days of receipt an event is recognised, today included."`
}

// Sink bounds one commit of the sink.
type Sink struct {
	MaxBatchRows  int  `key:"maxBatchRows" unit:"rows" min:"1" max:"1000000" doc:"Most events of one transaction."`
	MaxBatchBytes Size `key:"maxBatchBytes" min:"64KiB" max:"1GiB" doc:"Most bytes of one transaction. One accepted batch is never split."`
}

// Rate limits how fast a tenant may send.
type Rate struct {
	PerSecond int                   `key:"perSecond" unit:"events/s" min:"0" doc:"Events a second for each tenant; 0 is unlimited."`
	Burst     int                   `key:"burst" unit:"events" min:"0" doc:"Events a tenant may send at once after a pause; 0 is what it may send in two seconds."`
	Tenants   map[string]TenantRate `key:"tenants" doc:"Limits of single tenants, in place of the general one."`
	Quota     Quota                 `key:"quota" doc:"A second limit over a longer time."`
	Exact     bool                  `key:"exact" doc:"With Redis: ask it for each request, so that all instances together never let through more than one would; a request then waits for it. If false they tell each other what was spent every redis.syncEvery."`
}

// Quota limits what one tenant may send within a sliding window of time.
type Quota struct {
	Limit  int           `key:"limit" unit:"events or orders" min:"0" doc:"Most of one tenant within any window; 0 is no quota. Beyond it the answer is 429."`
	Window time.Duration `key:"window" min:"1s" max:"744h" doc:"Length of the sliding window."`
}

// TenantRate is one tenant's own limit.
type TenantRate struct {
	PerSecond int `key:"perSecond" unit:"events/s" min:"0" doc:"Events a second for this tenant; 0 is unlimited."`
	Burst     int `key:"burst" unit:"events" min:"0" doc:"Events this tenant may send at once after a pause; 0 is what it may send in two seconds."`
}

// Tail bounds live streams.
type Tail struct {
	MaxStreamsPerTenant int `key:"maxStreamsPerTenant" unit:"streams" min:"0" max:"100000" doc:"Most live streams that one tenant may hold open; 0 allows none."`
}

// DeadLetters says how long dead letters are kept.
type DeadLetters struct {
	RetentionDays int `key:"retentionDays" unit:"days" min:"0" max:"36500" doc:"Whole days that dead letters are kept; 0 keeps them for ever."`
}

// Hook is one source of incoming webhooks.
type Hook struct {
	Scheme    string        `key:"scheme" enum:"github|stripe|standard" doc:"How the sender signs: GitHub, Stripe, or Standard Webhooks."`
	Tenant    string        `key:"tenant" doc:"The tenant that the events belong to."`
	Secrets   []Secret      `key:"secrets" doc:"The signing secrets. Any of them may match, so that a secret can be changed without a gap."`
	Tolerance time.Duration `key:"tolerance" min:"1s" max:"24h" doc:"How old or how far ahead a signed delivery may be. GitHub signs no time: there it has no effect."`
}

// Default returns the configuration of a server on one machine that nobody has
// configured. It is valid as it stands.
func Default() *Config {
	return &Config{
		Data:  "./millrace-data",
		Roles: []string{RoleAPI, RoleSink, RoleWorker},
		Store: defaultStore(),
		Redis: Redis{SyncEvery: 100 * time.Millisecond},
		HTTP: HTTP{
			Listen:            "127.0.0.1:8080",
			MaxConnections:    10_000,
			MaxHeaderBytes:    16 * KiB,
			ReadHeaderTimeout: 5 * time.Second,
			BodyTimeout:       15 * time.Second,
			IdleTimeout:       2 * time.Minute,
			RequestTimeout:    time.Minute,
			MaxInflightBytes:  64 * MiB,
			ShutdownTimeout:   30 * time.Second,
		},
		Admin:   Admin{Listen: "127.0.0.1:9090"},
		Log:     Log{Level: "info", Format: "auto"},
		Tracing: Tracing{SampleRatio: 0.01},
		Auth: Auth{
			Issuer:       "millrace",
			Audience:     "millrace",
			Leeway:       30 * time.Second,
			CacheEntries: 100_000,
			JWKS: JWKS{
				Algorithms:  []string{"RS256", "ES256", "EdDSA"},
				TenantClaim: "tenant_id",
			},
		},
		Events: Events{
			Ack:                "wal",
			MaxBatchEvents:     100,
			MaxBodyBytes:       1 * MiB,
			MaxEventBytes:      256 * KiB,
			MaxDepth:           64,
			BacklogMaxBytes:    4 * GiB,
			DiskReserveBytes:   256 * MiB,
			SegmentBytes:       64 * MiB,
			QueueMaxBytes:      64 * MiB,
			StoreAckTimeout:    30 * time.Second,
			RetentionDays:      30,
			DeadLetterMaxBytes: 64 * KiB,
			Dedupe: Dedupe{
				Mode:        "window",
				Window:      2 * time.Minute,
				MemoryBytes: 128 * MiB,
				ExactDays:   2,
			},
			Rate:   Rate{Quota: Quota{Window: time.Hour}},
			Stream: defaultStream(),
			Sink:   Sink{MaxBatchRows: 20_000, MaxBatchBytes: 16 * MiB},
			Tail:   Tail{MaxStreamsPerTenant: 32},
		},
		DeadLetters: DeadLetters{RetentionDays: 30},
		Orders:      defaultOrders(),
		Payments:    defaultPayments(),
		Webhooks:    defaultWebhooks(),
		Bus:         defaultBus(),
		Catalog:     defaultCatalog(),
		Places:      Places{Language: "en"},
		Reads:       defaultReads(),
	}
}

// defaultHook is what a hook has before its keys are read.
func defaultHook() Hook { return Hook{Tolerance: 5 * time.Minute} }
