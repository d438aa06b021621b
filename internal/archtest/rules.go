package archtest

// domains are the packages of the domain: what the product is about.
var domains = []string{
	"event", "order", "inventory", "catalog", "place", "payment", "fulfilment", "notify", "link", "upload", "partner",
}

// sqlAndBrokers are the packages that only adapters know.
var sqlAndBrokers = []string{
	"database/sql",
	"modernc.org/sqlite", "github.com/jackc/pgx", "github.com/pressly/goose",
	"github.com/nats-io", "github.com/rabbitmq", "github.com/twmb/franz-go", "github.com/redis",
}

// pure are small libraries of other modules that do no input or output.
var pure = []string{
	"github.com/google/uuid", "github.com/cespare/xxhash/v2", "github.com/zeebo/xxh3",
	"github.com/puzpuzpuz/xsync/v4", "github.com/failsafe-go/failsafe-go",
	"golang.org/x/sync", "golang.org/x/time", "golang.org/x/text",
}

// blocks are the packages that domains are built of.
var blocks = []string{"internal/coalesce", "internal/memindex", "internal/cache", "internal/bus", "internal/deadletter", "internal/audit"}

// MillraceRules are the rules of this module.
func MillraceRules() Rules {
	var packages []Rule
	packages = append(packages, eventRules()...)
	packages = append(packages, merchantRules()...)
	packages = append(packages, domainRules()...)
	packages = append(packages, blockRules()...)
	packages = append(packages, adapterRules()...)
	packages = append(packages, edgeRules()...)
	packages = append(packages, outerRules()...)
	return Rules{
		Module:      "millrace",
		Packages:    packages,
		BannedNames: []string{"util", "utils", "common", "helper", "helpers", "model", "models", "service", "services", "manager", "managers", "misc", "shared"},
		TestSupport: []string{
			"internal/store/storetest/...", "internal/bus/bustest/...", "internal/payment/paymenttest/...", "internal/wal/vfs/faultfs/...",
			"internal/torture/...", "internal/stream/streamtest/...", "internal/servers/servertest/...", "test/...",
		},
		TestInternal: []string{"internal/follow", "internal/store/...", "internal/bus/...", "internal/stream/...", "internal/servers", "internal/wal/...", "internal/coalesce"},
		// A component takes its metrics as one struct built from a registerer, so
		// everyone may know Prometheus' types.
		AnyVendor: []string{"github.com/prometheus/client_golang/prometheus"},
	}
}

// eventRules are the parts of the event domain that are stricter than a domain.
func eventRules() []Rule {
	return []Rule{
		{
			For:          []string{"internal/event/scan", "internal/event/hook", "internal/event/dedupe"},
			Internal:     []string{"internal/event/scan"},
			Vendor:       []string{"github.com/cespare/xxhash/v2"},
			Deny:         []string{"database/sql", "os/exec"},
			NoHTTPServer: true,
			Why:          "pure parts of the event domain work on bytes alone: standard library and a hash",
		},
		{
			For:          []string{"internal/event"},
			Internal:     append([]string{"internal/event/...", "internal/wal"}, blocks...),
			Vendor:       pure,
			Deny:         sqlAndBrokers,
			NoHTTPServer: true,
			Why:          "the event domain knows no HTTP server, no SQL and no other domain: it declares what it needs as a small interface and app hands it over",
		},
	}
}

// merchantRules are for the demo's merchant, which stands outside: it listens, and
// calls the public API like any other.
func merchantRules() []Rule {
	return []Rule{{
		For:    []string{"internal/fulfilment/merchant"},
		Vendor: []string{"github.com/standard-webhooks"},
		Deny:   sqlAndBrokers,
		Why:    "the demo's merchant talks public HTTP only, as any merchant does",
	}}
}

// domainRules let a domain see the building blocks and nothing else, and an
// adapter to an outside service only the port it stands beneath.
func domainRules() []Rule {
	var rules []Rule
	for _, d := range domains {
		rules = append(rules,
			Rule{
				For:          []string{"internal/" + d},
				Internal:     append([]string{"internal/" + d + "/..."}, blocks...),
				Vendor:       pure,
				Deny:         sqlAndBrokers,
				NoHTTPServer: true,
				Why:          "a domain package knows no HTTP server, no SQL, no broker and no other domain: it declares what it needs as a small interface and app hands it over, or it travels as a message",
			},
			Rule{
				For:          []string{"internal/" + d + "/..."},
				Internal:     append([]string{"internal/" + d + "/..."}, blocks...),
				Vendor:       []string{"..."},
				Deny:         sqlAndBrokers,
				NoHTTPServer: true,
				Why:          "an adapter to an outside service knows its port and that service's client, nothing else",
			})
	}
	return rules
}

// blockRules are for what domains are built of: it must not know any of them.
func blockRules() []Rule {
	const why = "a building block knows the standard library and its one vendor library, and nothing of the domain, or it could not be used by the next one"
	return []Rule{
		{For: []string{"internal/wal"}, Internal: []string{"internal/wal/...", "internal/coalesce"}, Vendor: []string{"golang.org/x/sys", "golang.org/x/sync"}, Deny: []string{"net/http", "database/sql"}, Why: why},
		{For: []string{"internal/wal/..."}, Internal: []string{"internal/wal/..."}, Vendor: []string{"golang.org/x/sys", "golang.org/x/sync"}, Deny: []string{"net/http", "database/sql"}, Why: why},
		{For: []string{"internal/coalesce", "internal/memindex"}, Vendor: []string{"github.com/puzpuzpuz/xsync/v4"}, Deny: []string{"net/http", "database/sql"}, Why: why},
		{For: []string{"internal/lease", "internal/follow"}, Vendor: pure, Deny: sqlAndBrokers, NoHTTPServer: true, Why: why},
		{For: []string{"internal/limit"}, Internal: []string{"internal/limit/..."}, Vendor: append([]string{"github.com/redis/rueidis"}, pure...), Deny: []string{"database/sql"}, NoHTTPServer: true, Why: why},
		{For: []string{"internal/limit/..."}, Internal: []string{"internal/limit/..."}, Vendor: append([]string{"github.com/redis/rueidis"}, pure...), Deny: []string{"database/sql"}, NoHTTPServer: true, Why: why},
		{For: []string{"internal/cache/..."}, Internal: []string{"internal/cache/..."}, Vendor: []string{"github.com/maypok86/otter/v2", "github.com/redis/rueidis", "golang.org/x/sync"}, Deny: []string{"database/sql"}, NoHTTPServer: true, Why: why},
		{For: []string{"internal/audit"}, Vendor: pure, Deny: sqlAndBrokers, NoHTTPServer: true, Why: why},
		{For: []string{"internal/outbox", "internal/deadletter"}, Internal: []string{"internal/bus", "internal/audit"}, Vendor: pure, Deny: sqlAndBrokers, NoHTTPServer: true, Why: "it knows the bus port and its own store interface, not what travels through it"},
		{For: []string{"internal/auth"}, Internal: []string{"internal/audit", "internal/cache"}, Vendor: []string{"github.com/golang-jwt/jwt/v5", "github.com/MicahParks/keyfunc/v3", "github.com/MicahParks/jwkset", "github.com/maypok86/otter/v2", "github.com/google/uuid", "golang.org/x/sync", "golang.org/x/time"}, Deny: sqlAndBrokers, NoHTTPServer: true, Why: "auth judges credentials; the edge serves HTTP and a store keeps keys behind its interface"},
		{For: []string{"internal/telemetry/..."}, Internal: []string{"internal/telemetry/..."}, Vendor: []string{"..."}, Deny: sqlAndBrokers, Why: "telemetry knows its vendor libraries and nothing of what it observes"},
		{For: []string{"internal/config"}, Vendor: []string{"github.com/knadh/koanf", "go.yaml.in/yaml/v3", "golang.org/x/text"}, Deny: []string{"net/http", "database/sql"}, Why: "the configuration is plain data that everyone may read: it knows nobody"},
	}
}

// domainTypes are the packages whose types stores and the edge work with.
func domainTypes() []string {
	types := []string{"internal/deadletter", "internal/auth", "internal/audit"}
	for _, d := range domains {
		types = append(types, "internal/"+d)
	}
	return types
}

// adapterRules are for what connects the domain to a technology.
func adapterRules() []Rule {
	const why = "an adapter knows its port, the domain's types and its one client library"
	storeTypes := append(domainTypes(), "internal/outbox", "internal/lease", "internal/payment/sandbox")
	streamParts := []string{"internal/stream/...", "internal/event/...", "internal/deadletter", "internal/wal", "internal/coalesce", "internal/lease"}
	return []Rule{
		{For: []string{"internal/store/sql"}, Internal: storeTypes, Deny: []string{"net/http", "modernc.org", "github.com/jackc"}, Why: "statements that both dialects share know neither of them"},
		{For: []string{"internal/store/sqlite/..."}, Internal: append([]string{"internal/store/sqlite/...", "internal/store/sql", "internal/coalesce"}, storeTypes...), Vendor: []string{"modernc.org/sqlite", "modernc.org/libc", "github.com/pressly/goose/v3", "golang.org/x/sync", "golang.org/x/sys"}, Deny: []string{"net/http"}, Why: why},
		{For: []string{"internal/store/postgres/..."}, Internal: append([]string{"internal/store/postgres/...", "internal/store/sql"}, storeTypes...), Vendor: []string{"github.com/jackc/pgx/v5", "github.com/google/uuid", "github.com/pressly/goose/v3", "golang.org/x/sync", "golang.org/x/sys"}, Deny: []string{"net/http"}, Why: why},
		{For: []string{"internal/store/storetest"}, Internal: storeTypes, Vendor: []string{"github.com/google/go-cmp", "github.com/google/uuid"}, Deny: []string{"modernc.org", "github.com/jackc"}, Why: "the conformance suite is the same for every store, so it knows none"},
		{For: []string{"internal/stream"}, Internal: streamParts, Vendor: append([]string{"github.com/klauspost/compress"}, pure...), Deny: sqlAndBrokers, NoHTTPServer: true, Why: "the replicated log of events is a port: adapters know brokers"},
		{For: []string{"internal/stream/..."}, Internal: streamParts, Vendor: []string{"github.com/nats-io", "github.com/twmb/franz-go", "github.com/google/go-cmp", "github.com/google/uuid"}, Deny: []string{"database/sql"}, Why: why},
		{For: []string{"internal/bus"}, Vendor: pure, Deny: sqlAndBrokers, NoHTTPServer: true, Why: "the bus is a port: adapters know brokers"},
		{For: []string{"internal/bus/bustest"}, Internal: []string{"internal/bus"}, Vendor: []string{"github.com/google/go-cmp"}, Deny: sqlAndBrokers, Why: "the conformance suite is the same for every broker, so it knows none"},
		{For: []string{"internal/bus/nats/..."}, Internal: []string{"internal/bus", "internal/bus/nats/..."}, Vendor: []string{"github.com/nats-io"}, Deny: []string{"database/sql"}, Why: why},
		{For: []string{"internal/bus/rabbitmq/..."}, Internal: []string{"internal/bus", "internal/bus/rabbitmq/..."}, Vendor: []string{"github.com/rabbitmq/amqp091-go"}, Deny: []string{"database/sql"}, Why: why},
		{For: []string{"internal/bus/kafka/..."}, Internal: []string{"internal/bus", "internal/bus/kafka/..."}, Vendor: []string{"github.com/twmb/franz-go"}, Deny: []string{"database/sql"}, Why: why},
	}
}

// edgeRules are for what faces people and programs outside.
func edgeRules() []Rule {
	edge := append(domainTypes(), "internal/event/scan", "internal/event/hook", "internal/limit", "internal/telemetry")
	return []Rule{
		{
			For:      []string{"internal/httpapi/..."},
			Internal: append([]string{"internal/httpapi/..."}, edge...),
			Vendor:   []string{"..."},
			Deny:     append([]string{"internal/store", "internal/wal", "internal/app"}, sqlAndBrokers...),
			Why:      "the edge speaks HTTP and calls the domain; it knows no SQL, no log and no broker",
		},
		{
			For:      []string{"internal/console/..."},
			Internal: append([]string{"internal/console/..."}, edge...),
			Vendor:   []string{"..."},
			Deny:     append([]string{"internal/store", "internal/wal", "internal/app"}, sqlAndBrokers...),
			Why:      "the web pages call the domain; they know no SQL, no log and no broker",
		},
	}
}

// outerRules are for the programs and for what measures them.
func outerRules() []Rule {
	return []Rule{
		{For: []string{"internal/load/..."}, Internal: []string{"internal/load/..."}, Vendor: []string{"github.com/HdrHistogram/hdrhistogram-go", "github.com/cespare/xxhash/v2", "github.com/klauspost/compress", "github.com/mattn/go-isatty", "golang.org/x/sync", "golang.org/x/sys", "golang.org/x/time"}, StrictTests: true, Why: "the load generator talks public HTTP only, so it cannot cheat"},
		{For: []string{"internal/app/..."}, Internal: []string{"..."}, Vendor: []string{"..."}, Why: "app is the only place that knows concrete types"},
		{For: []string{"internal/cli/..."}, Internal: []string{"internal/cli/...", "internal/config", "internal/load", "internal/wal", "internal/wal/vfs"}, Vendor: []string{"github.com/spf13/cobra", "github.com/spf13/pflag"}, Deny: sqlAndBrokers, Why: "commands read flags and print answers; what they do goes over HTTP, or main hands it over"},
		{For: []string{"cmd/..."}, Internal: []string{"internal/cli", "internal/app"}, Vendor: []string{"github.com/mattn/go-isatty"}, Deny: sqlAndBrokers, Why: "main is wiring and exit codes"},
		{For: []string{"internal/archtest"}, Why: "the rules must not depend on what they judge"},
		{For: []string{"internal/blackbox"}, Vendor: []string{"github.com/prometheus", "golang.org/x/sys"}, Deny: sqlAndBrokers, StrictTests: true, Why: "it starts the real binary and looks at it from outside only"},
		{For: []string{"internal/servers/..."}, Internal: []string{"internal/servers/..."}, Vendor: []string{"..."}, Why: "it starts the servers that Millrace stands on, and knows nothing of Millrace"},
		{For: []string{"scripts/..."}, Internal: []string{"scripts/...", "internal/servers/...", "internal/blackbox"}, Vendor: []string{"..."}, Why: "scripts start the real binary among real servers"},
		{For: []string{"internal/torture/...", "test/..."}, Internal: []string{"internal/torture/...", "test/...", "internal/blackbox", "internal/load", "internal/servers/..."}, Vendor: []string{"..."}, Why: "a crash test runs the real binary and sees it from outside"},
		{For: []string{"bench/..."}, Internal: []string{"bench/...", "internal/blackbox", "internal/load", "internal/servers/...", "internal/event/...", "internal/coalesce", "internal/store/...", "internal/wal/..."}, Vendor: []string{"..."}, Deny: []string{"internal/app", "internal/httpapi"}, Why: "a benchmark runs the real binary, and its baselines may be built from parts of it"},
	}
}
