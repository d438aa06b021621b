package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestABadValueIsNamedWithItsMend sets one thing wrong at a time.
func TestABadValueIsNamedWithItsMend(t *testing.T) {
	tests := []struct {
		name string
		yaml string
		want string // the only problem
	}{
		{"a misspelt key", "http: {maxConection: 5}",
			"http.maxConection (millrace.yaml:1): there is no such key; did you mean http.maxConnections?"},
		{"a key in wrong case", "http: {maxconnections: 5}",
			"http.maxconnections (millrace.yaml:1): there is no such key; did you mean http.maxConnections?"},
		{"a key in the wrong section", "events:\n  exactDays: 2",
			"events.exactDays (millrace.yaml:2): there is no such key; did you mean events.dedupe.exactDays?"},
		{"a key like no other", "colour: blue",
			"colour (millrace.yaml:1): there is no such key; `millrace config reference` lists all there are"},
		{"a misspelt key of a hook", "hooks:\n  shop:\n    scheme: github\n    tenant: demo\n    secrets: [s]\n    tolerence: 1m",
			"hooks.shop.tolerence (millrace.yaml:6): there is no such key; did you mean hooks.shop.tolerance?"},
		{"a value for a section", "http: 8080",
			"http (millrace.yaml:1): it is a section and takes keys beneath it, not a value; see `millrace config reference`"},
		{"a section for a value", "http: {listen: {port: 80}}",
			"http.listen.port (millrace.yaml:1): there is no such key; `millrace config reference` lists all there are"},
		{"text for a number", "http: {maxConnections: many}",
			`http.maxConnections = "many" (millrace.yaml:1): it is not a whole number; write one such as 1000`},
		{"a fraction for a whole number", "http: {maxConnections: 1.5}",
			"http.maxConnections = 1.5 (millrace.yaml:1): it is not a whole number; write one such as 1000"},
		{"a number that is not one", "tracing: {sampleRatio: .nan}",
			"tracing.sampleRatio = NaN (millrace.yaml:1): it is not a number; write one such as 0.01"},
		{"a number for text", "auth: {issuer: 007}",
			"auth.issuer = 7 (millrace.yaml:1): it must be text; put it in quotes"},
		{"a duration without a unit", "http: {idleTimeout: 120}",
			"http.idleTimeout = 120 (millrace.yaml:1): the unit is missing; write for example 120s for seconds or 120m for minutes"},
		{"a duration of nonsense", "http: {idleTimeout: soon}",
			`http.idleTimeout = "soon" (millrace.yaml:1): it is not a duration; write numbers with units, such as 500ms, 30s, 2m or 1h30m`},
		{"a size of nonsense", "events: {maxBodyBytes: big}",
			`events.maxBodyBytes = "big" (millrace.yaml:1): it is not a size; write a number and a unit, such as 512KiB, 64MiB or 4GiB`},
		{"a list of numbers", "auth: {jwks: {algorithms: [1]}}",
			"auth.jwks.algorithms = [1] (millrace.yaml:1): its element 1 must be text; put it in quotes"},
		{"a number too small", "http: {maxConnections: 0}",
			"http.maxConnections = 0 (millrace.yaml:1): it is too small; the least is 1"},
		{"a negative size", "events: {maxBodyBytes: -1}",
			"events.maxBodyBytes = -1B (millrace.yaml:1): it is too small; the least is 1KiB"},
		{"a size too big", "events: {maxBodyBytes: 1GiB}",
			"events.maxBodyBytes = 1GiB (millrace.yaml:1): it is too big; the most is 4MiB"},
		{"a ratio too big", "tracing: {sampleRatio: 1.5}",
			"tracing.sampleRatio = 1.5 (millrace.yaml:1): it is too big; the most is 1"},
		{"a choice there is not", "log: {level: loud}",
			`log.level = "loud" (millrace.yaml:1): it must be one of debug, info, warn, error`},
		{"a symmetric algorithm", "auth: {jwks: {algorithms: [RS256, HS256]}}",
			`auth.jwks.algorithms = "HS256" (millrace.yaml:1): it must be one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA`},
		{"a language of nonsense", "places: {language: xx-yy-zz-1}",
			`places.language = "xx-yy-zz-1" (millrace.yaml:1): it is not a language; write a BCP 47 tag such as en or de-AT`},
		{"a yes of nonsense", "catalog: {public: perhaps}",
			`catalog.public = "perhaps" (millrace.yaml:1): it is not a yes or no; write true or false`},
		{"stripe without a key", "payments: {provider: stripe, stripe: {webhookSecrets: [whsec_x]}}",
			"payments.stripe.secretKey = ********: it is empty; set it to the secret key of the Stripe account, best by its variable"},
		{"stripe's webhooks without a secret", "payments: {provider: stripe, stripe: {secretKey: sk_x}}",
			"payments.stripe.webhookSecrets = []: it is empty, so no webhook of Stripe could be verified; set the signing secret of the endpoint"},
		{"a network that is none", "webhooks: {allowedNets: [10.0.0.1]}",
			`webhooks.allowedNets = "10.0.0.1" (millrace.yaml:1): it is not a network; write one such as 10.1.0.0/16 or 127.0.0.1/32`},
		{"a broker that is none", "bus: {nats: {url: \"nats-1:4222\"}}",
			`bus.nats.url = "nats-1:4222" (millrace.yaml:1): it is not such a URL; write one such as nats://nats-1:4222 or tls://nats-1:4222`},
		{"a password in a URL", "bus: {nats: {url: \"nats://me:secret@nats-1:4222\"}}",
			`bus.nats.url = "nats://********@nats-1:4222" (millrace.yaml:1): it carries a password; set bus.nats.user and bus.nats.password instead, best by their variables`},
		{"two ways to say who one is", "bus: {nats: {user: me, credsFile: x.creds}}",
			`bus.nats.user = "me" (millrace.yaml:1): user, token and credsFile exclude each other; set one of them`},
		{"a password of nobody", "bus: {nats: {password: x}}",
			`bus.nats.user = "": bus.nats.password is set and this is not; set it too`},
		{"a demo with real money", "demo: {enabled: true}\npayments: {provider: stripe, stripe: {secretKey: sk_x, webhookSecrets: [whsec_x]}}",
			"demo.enabled = true (millrace.yaml:1): the demo shop's customers pay with sandbox tokens; set payments.provider to sandbox, or the demo to false"},
		{"a batch that the queue cannot hold", "orders: {maxBatch: 100, queueMax: 10}",
			"orders.maxBatch = 100 (millrace.yaml:1): it is more than orders.queueMax (10), so it could never be reached; make it smaller"},
		{"ack stream on the embedded broker", "events: {ack: stream}",
			`events.ack = "stream" (millrace.yaml:1): the embedded broker replicates nothing; set bus.nats.url to a cluster of NATS servers, or use wal, store or memory`},
		{"ack stream on RabbitMQ", "events: {ack: stream}\nbus: {driver: rabbitmq, rabbitmq: {urls: ['amqp://r:5672']}}",
			`events.ack = "stream" (millrace.yaml:1): RabbitMQ has no stream that can be read from a position; set bus.driver to nats or kafka, or use wal`},
		{"a database nobody named", "store: {driver: postgres}",
			"store.postgres.dsn = ********: it is empty; set MILLRACE_STORE__POSTGRES__DSN, or MILLRACE_STORE__POSTGRES__DSN_FILE to a file with it, to a URL such as postgres://millrace@db-1:5432/millrace"},
		{"a role that is no name", "store: {driver: postgres, postgres: {dsn: x, readRole: 'a; drop'}}",
			`store.postgres.readRole = "a; drop" (millrace.yaml:1): it is not the name of a role; write a-z, 0-9 and _`},
		{"no role", "roles: []\nbus: {nats: {url: \"nats://n:4222\"}}",
			"roles = [] (millrace.yaml:1): an instance without a role does nothing; give one or more of api, sink, worker"},
		{"a log that nobody empties", "store: {driver: postgres, postgres: {dsn: x}}\nroles: [api]\nbus: {nats: {url: \"nats://n:4222\"}}",
			"roles = api (millrace.yaml:2): an instance with a log of its own must bring it into the database too; add sink, or set events.ack to stream"},
		{"workers that hear nothing", "store: {driver: postgres, postgres: {dsn: x}}\nroles: [api, sink]",
			`bus.nats.url = "": no worker hears the embedded broker of an instance without the role worker; set it to a NATS server of all instances, or choose another bus.driver`},
		{"half an embedded server", "roles: [api, sink]\nbus: {nats: {url: \"nats://n:4222\"}}",
			"roles = api,sink (millrace.yaml:1): with store.driver sqlite there is only this one instance; leave roles out, or set store.driver to postgres"},
		{"an instance without a fit name", "instance: 'a b'",
			`instance = "a b" (millrace.yaml:1): it is not a name; write 1 to 63 of letters, digits, '.', '_' and '-'`},
		{"a Redis without a port", "redis: {addresses: [redis-1]}",
			`redis.addresses = "redis-1" (millrace.yaml:1): it is not host:port; write one such as redis-1:6379`},
		{"a cluster's other database", "redis: {addresses: ['a:1', 'b:1'], database: 3}",
			"redis.database = 3 (millrace.yaml:1): a cluster has only database 0; give one address, or database 0"},
		{"several embedded brokers", "bus: {nats: {replicas: 3}}",
			"bus.nats.replicas = 3 (millrace.yaml:1): the embedded broker is one server; set bus.nats.url, or replicas to 1"},
		{"a password in the URL of RabbitMQ", "bus: {driver: rabbitmq, rabbitmq: {urls: ['amqp://me:secret@r:5672']}}",
			`bus.rabbitmq.urls = "amqp://********@r:5672" (millrace.yaml:1): it carries a password; set bus.rabbitmq.user and bus.rabbitmq.password instead, best by their variables`},
		{"Kafka without a broker", "bus: {driver: kafka}",
			"bus.kafka.brokers = []: it is empty; name some brokers, such as kafka-1:9092"},
		{"no data directory", `data: ""`,
			`data = "" (millrace.yaml:1): it is empty; name a directory on a local disk, such as ./millrace-data`},
		{"an address without a port", "http: {listen: localhost}",
			`http.listen = "localhost" (millrace.yaml:1): it is not an address; write host:port, such as 127.0.0.1:8080, [::1]:8080 or :8080`},
		{"an address with a bad port", "admin: {listen: ':99999'}",
			`admin.listen = ":99999" (millrace.yaml:1): its port is not a number from 0 to 65535; write one such as 8080`},
		{"a URL for an address", "http: {listen: 'http//x:80'}",
			`http.listen = "http//x:80" (millrace.yaml:1): its host is not a host name or an IP address; write host:port, such as 127.0.0.1:8080`},
		{"one address for two listeners", "admin: {listen: '127.0.0.1:8080'}",
			`admin.listen = "127.0.0.1:8080" (millrace.yaml:1): it is the address of http.listen too; give one of them another port`},
		{"a certificate without a key", "http: {tls: {certFile: a.pem}}",
			`http.tls.keyFile = "": http.tls.certFile is set and this is not; set both, or neither for plain HTTP`},
		{"a key without a certificate", "http: {tls: {keyFile: a.pem}}",
			`http.tls.certFile = "": http.tls.keyFile is set and this is not; set both, or neither for plain HTTP`},
		{"a request that ends before its body", "http: {requestTimeout: 5s}",
			"http.requestTimeout = 5s (millrace.yaml:1): it is shorter than http.bodyTimeout (15s), which is a part of it; make it longer"},
		{"a collector that is no URL", "tracing: {endpoint: 'localhost:4318'}",
			`tracing.endpoint = "localhost:4318" (millrace.yaml:1): it is not an http or https URL; write one such as http://localhost:4318`},
		{"keys over plain http", "auth: {jwks: {url: 'http://login.example/jwks', issuer: i, audience: a}}",
			`auth.jwks.url = "http://login.example/jwks" (millrace.yaml:1): keys fetched over plain http can be forged on the way; use https`},
		{"an external issuer without its name", "auth: {jwks: {url: 'https://login.example/jwks', audience: a}}",
			`auth.jwks.issuer = "": it is empty; with auth.jwks.url set, name the 'iss' that its tokens carry`},
		{"an external issuer without algorithms", "auth: {jwks: {url: 'https://login.example/jwks', issuer: i, audience: a, algorithms: []}}",
			"auth.jwks.algorithms = [] (millrace.yaml:1): it is empty; list the algorithms the issuer signs with, such as [RS256]"},
		{"an external issuer called like our own", "auth: {jwks: {url: 'https://login.example/jwks', issuer: millrace, audience: a}}",
			`auth.jwks.issuer = "millrace" (millrace.yaml:1): it is the same as auth.issuer, so nobody could tell the two apart; change one`},
		{"an audience without a URL", "auth: {jwks: {audience: a}}",
			`auth.jwks.url = "": auth.jwks.audience is set and this is not; set it to where the issuer publishes its keys`},
		{"an event bigger than a body", "events: {maxEventBytes: 2MiB}",
			"events.maxEventBytes = 2MiB (millrace.yaml:1): it is more than events.maxBodyBytes (1MiB), so it could never be reached; make it smaller or the other bigger"},
		{"too few bodies in flight", "{events: {maxBodyBytes: 2MiB}, http: {maxInflightBytes: 8MiB}}",
			"http.maxInflightBytes = 8MiB (millrace.yaml:1): it is less than 8 times events.maxBodyBytes (2MiB), so that large bodies could be refused for ever; make it bigger"},
		{"a drain delay as long as the whole stop", "http: {drainDelay: 30s}",
			"http.drainDelay = 30s (millrace.yaml:1): it is part of http.shutdownTimeout (30s) and must be shorter; make it shorter or the other longer"},
		{"a segment as big as the backlog", "events: {backlogMaxBytes: 64MiB}",
			"events.segmentBytes = 64MiB: it is more than half of events.backlogMaxBytes (64MiB), so the log could never give space back in time; make it smaller"},
		{"a segment that is no number of blocks", "events: {segmentBytes: 10MB}",
			"events.segmentBytes = 10000000B (millrace.yaml:1): it is not a whole number of disk blocks of 4KiB; write one such as 64MiB"},
		{"a segment too small for a body", "events: {segmentBytes: 16MiB, maxBodyBytes: 4MiB}",
			"events.segmentBytes = 16MiB (millrace.yaml:1): it is less than eight times events.maxBodyBytes (4MiB); make it bigger"},
		{"a store that answers after the request's end", "events: {ack: store, storeAckTimeout: 2m}",
			"events.storeAckTimeout = 2m (millrace.yaml:1): it is longer than http.requestTimeout (1m), which would end first; make it shorter"},
		{"recognition beyond retention", "events: {retentionDays: 1, dedupe: {mode: exact}}",
			"events.dedupe.exactDays = 2: it is more than events.retentionDays (1), and what is gone cannot be recognised; make it smaller"},
		{"a burst without a rate", "events: {rate: {burst: 5}}",
			"events.rate.burst = 5 (millrace.yaml:1): a burst without a rate limits nothing; set events.rate.perSecond too, or leave the burst out"},
		{"a tenant of a bad name", "events: {rate: {tenants: {De mo: {perSecond: 5}}}}",
			`events.rate.tenants.De mo: "De mo" is not a tenant: a name is 1 to 63 of a-z, 0-9, - and _, and begins with a letter or a digit`},
		{"a hook without a secret", "hooks: {shop: {scheme: github, tenant: demo}}",
			"hooks.shop.secrets = []: it is empty, so no delivery could be verified; set the secret that the sender signs with"},
		{"a hook with a secret that was badly copied", "hooks: {shop: {scheme: github, tenant: demo, secrets: ['hunter2 ']}}",
			"hooks.shop.secrets = ******** (millrace.yaml:1): secret 1 is empty or has white space around it; write it exactly as the sender shows it"},
		{"a hook without a tenant", "hooks: {shop: {scheme: github, secrets: [s]}}",
			`hooks.shop.tenant = "": name the tenant that the events belong to: a name is 1 to 63 of a-z, 0-9, - and _, and begins with a letter or a digit`},
		{"a hook of an unknown scheme", "hooks: {shop: {scheme: gitlab, tenant: demo, secrets: [s]}}",
			`hooks.shop.scheme = "gitlab" (millrace.yaml:1): it must be one of github, stripe, standard`},
		{"a hook whose name is no path", "hooks: {Shop: {scheme: github, tenant: demo, secrets: [s]}}",
			`hooks.Shop: "Shop" cannot stand in a URL: a name is 1 to 63 of a-z, 0-9, - and _, and begins with a letter or a digit`},
		{"a hook with a number for a secret", "hooks: {shop: {scheme: github, tenant: demo, secrets: [4711]}}",
			"hooks.shop.secrets = ******** (millrace.yaml:1): its element 1 must be text; put it in quotes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Load(writeFile(t, test.yaml), nil, nil)
			var invalid *Error
			if !errors.As(err, &invalid) {
				t.Fatalf("got %v, want an *Error", err)
			}
			if diff := cmp.Diff("configuration: "+test.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestABadVariableIsNamedWithItsMend(t *testing.T) {
	for entry, want := range map[string]string{
		"MILLRACE_HTTP_LISTEN=:1":             "MILLRACE_HTTP_LISTEN: there is no such variable; did you mean MILLRACE_HTTP__LISTEN?",
		"MILLRACE_HTTP__MAXCONNECTIONS=1":     "MILLRACE_HTTP__MAXCONNECTIONS: there is no such variable; did you mean MILLRACE_HTTP__MAX_CONNECTIONS?",
		"MILLRACE_LOG__LEVLE=info":            "MILLRACE_LOG__LEVLE: there is no such variable; did you mean MILLRACE_LOG__LEVEL?",
		"MILLRACE_COLOUR=blue":                "MILLRACE_COLOUR: there is no such variable; `millrace config reference` lists all there are",
		"MILLRACE_HOOKS__SHOP__SECRET=x":      "MILLRACE_HOOKS__SHOP__SECRET: there is no such variable; did you mean MILLRACE_HOOKS__SHOP__SECRETS?",
		"MILLRACE_HOOKS____SCHEME=github":     "MILLRACE_HOOKS____SCHEME: there is no such variable; `millrace config reference` lists all there are",
		"MILLRACE_HTTP__MAX_CONNECTIONS=many": `http.maxConnections = "many" (MILLRACE_HTTP__MAX_CONNECTIONS): it is not a whole number; write one such as 1000`,
		"MILLRACE_HTTP__IDLE_TIMEOUT=5":       `http.idleTimeout = "5" (MILLRACE_HTTP__IDLE_TIMEOUT): the unit is missing; write for example 5s for seconds or 5m for minutes`,
		"MILLRACE_DATA=":                      `data = "" (MILLRACE_DATA): it is empty; name a directory on a local disk, such as ./millrace-data`,
	} {
		t.Run(entry, func(t *testing.T) {
			_, err := Load("", []string{entry}, nil)
			if err == nil || err.Error() != "configuration: "+want {
				t.Errorf("got  %v\nwant configuration: %s", err, want)
			}
		})
	}
}

func TestAllProblemsOfAllLayersAreReportedAtOnce(t *testing.T) {
	file := writeFile(t, "http:\n  maxConection: 5\n  maxConnections: 0\nlog:\n  level: loud\n")
	_, err := Load(file, []string{"MILLRACE_HTTP_LISTEN=x", "MILLRACE_HTTP__IDLE_TIMEOUT=x"},
		[]Flag{{Name: "--listen", Key: "http.listen", Value: "nowhere"}, {Name: "--set", Key: "http", Value: "1"}})
	want := strings.TrimSpace(`
configuration: 7 problems
  MILLRACE_HTTP_LISTEN: there is no such variable; did you mean MILLRACE_HTTP__LISTEN?
  http.maxConection (millrace.yaml:2): there is no such key; did you mean http.maxConnections?
  http (--set): it is a section and takes keys beneath it, not a value; see ` + "`millrace config reference`" + `
  http.idleTimeout = "x" (MILLRACE_HTTP__IDLE_TIMEOUT): it is not a duration; write numbers with units, such as 500ms, 30s, 2m or 1h30m
  http.maxConnections = 0 (millrace.yaml:3): it is too small; the least is 1
  log.level = "loud" (millrace.yaml:5): it must be one of debug, info, warn, error
  http.listen = "nowhere" (--listen): it is not an address; write host:port, such as 127.0.0.1:8080, [::1]:8080 or :8080`)
	if err == nil {
		t.Fatal("no error")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}

func TestBoundsInTagsCanBeParsed(t *testing.T) {
	walkSchema(Default(), func(section) {}, func(f field) {
		for _, name := range []string{"min", "max"} {
			if bound := f.tag.Get(name); bound != "" {
				parseBound(f, bound) // panics on a bad one
			}
		}
	})
}

func TestAPortOfZeroMayStandTwice(t *testing.T) {
	_, err := Load("", []string{"MILLRACE_HTTP__LISTEN=127.0.0.1:0", "MILLRACE_ADMIN__LISTEN=127.0.0.1:0"}, nil)
	if err != nil {
		t.Error(err)
	}
}
