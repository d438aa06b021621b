package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"
)

// Roles of an instance.
const (
	// RoleAPI serves the API.
	RoleAPI = "api"
	// RoleSink brings accepted events into the database.
	RoleSink = "sink"
	// RoleWorker works on orders and delivers webhooks.
	RoleWorker = "worker"
)

// Store says where everything but the event log is kept.
type Store struct {
	Driver   string   `key:"driver" enum:"sqlite|postgres" doc:"sqlite: in files in the data directory, for one instance. postgres: in PostgreSQL, for any number of instances."`
	Postgres Postgres `key:"postgres" doc:"The PostgreSQL database."`
}

// Postgres says where the database is and how it is used.
type Postgres struct {
	DSN              Secret        `key:"dsn" doc:"Connection string or URL of the primary, as libpq takes it: postgres://millrace:password@db-1:5432/millrace?sslmode=verify-full."`
	ReplicaDSN       Secret        `key:"replicaDsn" doc:"Connection string of a streaming replica for histories, the catalogue and queries of events; empty reads all from the primary."`
	ReplicaMaxLag    time.Duration `key:"replicaMaxLag" min:"2s" max:"1h" doc:"How far behind the replica may be; beyond it reads go to the primary."`
	MaxConnections   int           `key:"maxConnections" unit:"connections" min:"6" max:"1000" doc:"Most connections of this instance to the primary."`
	StatementTimeout time.Duration `key:"statementTimeout" min:"1s" max:"10m" doc:"Time one statement may take."`
	ConnectTimeout   time.Duration `key:"connectTimeout" min:"100ms" max:"1m" doc:"Time one try to connect may take."`
	StartTimeout     time.Duration `key:"startTimeout" min:"0s" max:"1h" doc:"How long a starting instance waits for a database that is away before it gives up."`
	PartitionsAhead  int           `key:"partitionsAhead" unit:"days" min:"1" max:"60" doc:"Days whose partitions of events exist before the day begins."`
	ReadRole         string        `key:"readRole" doc:"The role that reads for tenants, whom row-level security keeps apart."`
	Migrate          bool          `key:"migrate" doc:"Whether a starting instance brings an older schema up to date; if false, run millrace migrate up."`
	TLS              ClientTLS     `key:"tls" doc:"TLS to the database. If it is off the connection strings decide (sslmode)."`
}

// ClientTLS is how this program connects to a service with TLS.
type ClientTLS struct {
	Enabled    bool   `key:"enabled" doc:"Whether to use TLS. The other keys have no effect without it."`
	CAFile     string `key:"caFile" doc:"PEM file with the authorities that the server's certificate is checked against; empty takes the system's."`
	CertFile   string `key:"certFile" doc:"PEM file with this client's certificate, if the server asks for one."`
	KeyFile    string `key:"keyFile" doc:"PEM file with the certificate's private key."`
	ServerName string `key:"serverName" doc:"The name that the server's certificate must have; empty takes the host's."`
}

// Config reads the files and returns what to connect with, nil if TLS is off.
func (t ClientTLS) Config() (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		text, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("tls.caFile: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("tls.caFile %s holds no certificate; give a PEM file with the certificates of the authorities", t.CAFile)
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, errors.New("tls.certFile and tls.keyFile belong together; set both or none")
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("tls.certFile and tls.keyFile: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// Redis says where Redis is. It is used when there is an address.
type Redis struct {
	Addresses []string      `key:"addresses" doc:"host:port of the servers; several are nodes of a cluster. Empty: every instance keeps its limits by itself."`
	User      string        `key:"user" doc:"User name; empty for the default user."`
	Password  Secret        `key:"password" doc:"The user's password."`
	Database  int           `key:"database" unit:"number" min:"0" max:"1000000" doc:"Number of the database. A cluster has only 0."`
	SyncEvery time.Duration `key:"syncEvery" min:"10ms" max:"10s" doc:"How often the instances tell each other what their tenants have spent. Between two tellings each decides alone."`
	TLS       ClientTLS     `key:"tls" doc:"TLS to Redis."`
}

// Bus is the message broker.
type Bus struct {
	Driver   string   `key:"driver" enum:"nats|rabbitmq|kafka" doc:"Which broker: NATS, which is also embedded, RabbitMQ or Kafka."`
	NATS     NATS     `key:"nats" doc:"NATS with JetStream."`
	RabbitMQ RabbitMQ `key:"rabbitmq" doc:"RabbitMQ, 3.10 or newer."`
	Kafka    Kafka    `key:"kafka" doc:"Kafka, or what speaks its protocol."`
}

// NATS says where NATS is.
type NATS struct {
	URL           string    `key:"url" doc:"URLs of the servers, with commas between, such as nats://nats-1:4222; empty runs one inside this process."`
	User          string    `key:"user" doc:"User name; empty for none."`
	Password      Secret    `key:"password" doc:"The user's password."`
	Token         Secret    `key:"token" doc:"Token, in place of user and password."`
	CredsFile     string    `key:"credsFile" doc:"File with a user's JWT and key, in place of user and password."`
	TLS           ClientTLS `key:"tls" doc:"TLS to NATS."`
	Replicas      int       `key:"replicas" unit:"servers" min:"1" max:"5" doc:"On how many servers of a cluster each message is kept; 3 survives the loss of one."`
	MonitorURLs   []string  `key:"monitorUrls" doc:"URLs of the servers' monitoring ports, such as http://nats-1:8222. Only millrace doctor asks there."`
	StoreMaxBytes Size      `key:"storeMaxBytes" min:"16MiB" max:"1TiB" doc:"Most bytes that messages take on disk. The oldest go first: the sweeper finds what they spoke of."`
}

// RabbitMQ says where RabbitMQ is.
type RabbitMQ struct {
	URLs           []string  `key:"urls" doc:"URLs of the nodes without user and password, such as amqp://rabbit-1:5672."`
	User           string    `key:"user" doc:"User name."`
	Password       Secret    `key:"password" doc:"The user's password."`
	VHost          string    `key:"vhost" doc:"The virtual host."`
	TLS            ClientTLS `key:"tls" doc:"TLS to RabbitMQ, for amqps URLs."`
	ManagementURLs []string  `key:"managementUrls" doc:"URLs of the nodes' management plugin, such as http://rabbit-1:15672. Only millrace doctor asks there."`
	Replicas       int       `key:"replicas" unit:"nodes" min:"0" max:"9" doc:"On how many nodes a new quorum queue is kept, an odd number; 0 lets the broker decide."`
	StoreMaxBytes  Size      `key:"storeMaxBytes" min:"1MiB" max:"1TiB" doc:"Most bytes that one queue keeps. The oldest go first: the sweeper finds what they spoke of."`
}

// Kafka says where Kafka is.
type Kafka struct {
	Brokers    []string  `key:"brokers" doc:"host:port of some brokers."`
	Prefix     string    `key:"prefix" doc:"What the names of topics and consumer groups begin with."`
	User       string    `key:"user" doc:"SASL user name; empty for none."`
	Password   Secret    `key:"password" doc:"The user's password."`
	Mechanism  string    `key:"mechanism" enum:"PLAIN|SCRAM-SHA-256|SCRAM-SHA-512" doc:"How user and password are shown to the brokers."`
	TLS        ClientTLS `key:"tls" doc:"TLS to Kafka."`
	Replicas   int       `key:"replicas" unit:"brokers" min:"1" max:"9" doc:"On how many brokers each message is kept, for topics that are made here; 3 survives the loss of one."`
	Partitions int       `key:"partitions" unit:"partitions" min:"1" max:"1000" doc:"Partitions of the topics that are made here."`
}

// Stream bounds the replicated stream of events.ack stream. It is kept by the
// bus's servers.
type Stream struct {
	Name          string `key:"name" doc:"What the names of the streams, or that of the topic, begin with, so that two deployments can share servers."`
	Partitions    int    `key:"partitions" unit:"partitions" min:"1" max:"256" doc:"Into how many partitions the stream is parted; each is brought into the database by one instance at a time. It can only be raised."`
	Replicas      int    `key:"replicas" unit:"servers" min:"1" max:"9" doc:"On how many servers each event is kept before it is answered; 3 survives the loss of one."`
	MaxBytes      Size   `key:"maxBytes" min:"64MiB" doc:"Most bytes that one partition keeps: what is not yet in the database, and two minutes of what is. Full: 503."`
	InflightBytes Size   `key:"inflightBytes" min:"1MiB" max:"16GiB" doc:"Most bytes of this instance that wait for the stream's acknowledgement; beyond it the answer is 503."`
	AcceptLoss    bool   `key:"acceptLoss" doc:"For one start, after messages were lost on the servers: go on behind them instead of refusing to."`
}

func defaultStore() Store {
	return Store{Driver: "sqlite", Postgres: Postgres{
		ReplicaMaxLag: 5 * time.Second, MaxConnections: 40, StatementTimeout: 30 * time.Second, ConnectTimeout: 5 * time.Second,
		StartTimeout: time.Minute, PartitionsAhead: 3, ReadRole: "millrace_reader", Migrate: true,
	}}
}

func defaultBus() Bus {
	return Bus{Driver: "nats",
		NATS:     NATS{Replicas: 1, StoreMaxBytes: 1 * GiB},
		RabbitMQ: RabbitMQ{VHost: "/", StoreMaxBytes: 256 * MiB},
		Kafka:    Kafka{Prefix: "millrace", Mechanism: "SCRAM-SHA-512", Replicas: 1, Partitions: 12},
	}
}

func defaultStream() Stream {
	return Stream{Name: "millrace-events", Partitions: 8, Replicas: 3, MaxBytes: 1 * GiB, InflightBytes: 64 * MiB}
}
