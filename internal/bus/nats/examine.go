package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// monitorTimeout bounds one question to a monitoring port.
const monitorTimeout = 3 * time.Second

// Facts are what Examine found. What could not be learned is zero or nil.
type Facts struct {
	// Reachable: a server answered. RoundTrip is how long that took.
	Reachable bool
	RoundTrip time.Duration
	// Version is that of the server connected to, Cluster its cluster's name, empty if
	// it is in none. Servers are the addresses it tells clients of.
	Version, Cluster string
	Servers          []string
	TLS              bool
	// JetStream: it is enabled for our account.
	JetStream bool
	// StoreUsedBytes and StoreLimitBytes are the account's; no limit is -1.
	StoreUsedBytes, StoreLimitBytes int64
	Streams                         []StreamFacts
	// Monitored are what the monitoring ports told, one for each of
	// Options.MonitorURLs.
	Monitored []MonitorFacts
	// Problems say what is wrong and what to do, the worst first.
	Problems []string
}

// StreamFacts are about one of our streams and its groups.
type StreamFacts struct {
	Name     string
	Replicas int
	Leader   string // empty if there is none
	// Behind are replicas that are offline or not up to date.
	Behind             []string
	Messages           uint64
	Bytes, LimitBytes  int64
	Groups             int
	MostPending        uint64 // messages that wait for the group that is furthest behind
	FurthestBehindName string
}

// MonitorFacts are what one server's monitoring port told.
type MonitorFacts struct {
	URL, Server, Version string
	// SyncAlways: JetStream writes to disk before it acknowledges.
	SyncAlways bool
	// ClusterSize is how many servers share the streams' administration, 0 if none.
	ClusterSize                     int
	StoreUsedBytes, StoreLimitBytes int64
	Err                             error // it could not be asked
}

// Examine looks at the broker for an operator. It changes nothing.
func (b *Bus) Examine(ctx context.Context) Facts {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	var f Facts
	f.Monitored = b.monitored(ctx)
	b.examine(ctx, &f)
	f.judge(b.options.Replicas)
	return f
}

// examine asks the broker itself, as far as it answers.
func (b *Bus) examine(ctx context.Context, f *Facts) {
	if err := b.reached(ctx); err != nil {
		f.problem("the message broker cannot be reached: %v", err)
		return
	}
	f.Reachable = true
	f.RoundTrip, _ = b.nc.RTT()
	f.Version, f.Cluster, f.Servers = b.nc.ConnectedServerVersion(), b.nc.ConnectedClusterName(), b.nc.Servers()
	_, err := b.nc.TLSConnectionState()
	f.TLS = err == nil
	var account *jetstream.AccountInfo
	err = b.ask(ctx, func(ctx context.Context) (err error) {
		account, err = b.js.AccountInfo(ctx)
		return err
	})
	if err != nil {
		f.problem("JetStream does not answer: %v", b.failed("ask for the account", err))
		return
	}
	f.JetStream = true
	f.StoreUsedBytes, f.StoreLimitBytes = int64(account.Store), account.Limits.MaxStore
	b.examineStream(ctx, f)
}

// reached waits for the connection.
func (b *Bus) reached(ctx context.Context) error {
	for {
		err := b.Ping(ctx)
		if err == nil || !wait(ctx, 50*time.Millisecond) {
			return err
		}
	}
}

func (f *Facts) problem(format string, args ...any) {
	f.Problems = append(f.Problems, fmt.Sprintf(format, args...))
}

func (b *Bus) examineStream(ctx context.Context, f *Facts) {
	err := b.ask(ctx, func(ctx context.Context) error {
		stream, err := b.js.Stream(ctx, b.options.Stream)
		if err != nil {
			return err
		}
		i := stream.CachedInfo()
		s := StreamFacts{Name: i.Config.Name, Replicas: i.Config.Replicas, Messages: i.State.Msgs, Bytes: int64(i.State.Bytes), LimitBytes: i.Config.MaxBytes}
		if i.Cluster != nil {
			s.Leader = i.Cluster.Leader
			for _, r := range i.Cluster.Replicas {
				if r.Offline || !r.Current {
					s.Behind = append(s.Behind, r.Name)
				}
			}
		}
		consumers := stream.ListConsumers(ctx)
		for c := range consumers.Info() {
			s.Groups++
			if c.NumPending >= s.MostPending {
				s.MostPending, s.FurthestBehindName = c.NumPending, c.Name
			}
		}
		f.Streams = append(f.Streams, s)
		return consumers.Err()
	})
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) { // it is created when it is needed
		f.problem("the stream %s cannot be looked at: %v", b.options.Stream, b.failed("look at it", err))
	}
}

// judge adds what is wrong.
func (f *Facts) judge(replicas int) {
	for _, s := range f.Streams {
		if s.Replicas < replicas {
			f.problem("the stream %s has %d replicas, %d are configured: see why the broker does not add them", s.Name, s.Replicas, replicas)
		}
		if f.Cluster != "" && s.Leader == "" {
			f.problem("the stream %s has no leader: start enough of its servers", s.Name)
		}
		if len(s.Behind) > 0 {
			f.problem("replicas of the stream %s are offline or behind: %s", s.Name, strings.Join(s.Behind, ", "))
		}
	}
	if f.Cluster != "" && replicas == 1 {
		f.problem("the broker is a cluster and messages have one replica: set the bus's replicas to 3")
	}
	if f.StoreLimitBytes > 0 && f.StoreUsedBytes > f.StoreLimitBytes/10*9 {
		f.problem("the account has used %d of the %d bytes it may store", f.StoreUsedBytes, f.StoreLimitBytes)
	}
	for _, m := range f.Monitored {
		switch {
		case m.Err != nil:
			f.problem("the monitoring port %s does not answer: %v", m.URL, m.Err)
		case m.StoreLimitBytes > 0 && m.StoreUsedBytes > m.StoreLimitBytes/10*9:
			f.problem("%s has used %d of the %d bytes it may store", m.Server, m.StoreUsedBytes, m.StoreLimitBytes)
		}
	}
}

// SyncAlways says whether every server that was asked writes to disk before it
// acknowledges; known is false if not all answered or none was asked.
func (f *Facts) SyncAlways() (always, known bool) {
	if len(f.Monitored) == 0 {
		return false, false
	}
	for _, m := range f.Monitored {
		if m.Err != nil {
			return false, false
		}
	}
	return !slices.ContainsFunc(f.Monitored, func(m MonitorFacts) bool { return !m.SyncAlways }), true
}

// monitored asks all monitoring ports at once.
func (b *Bus) monitored(ctx context.Context) []MonitorFacts {
	list := make([]MonitorFacts, len(b.options.MonitorURLs))
	transport := &http.Transport{TLSClientConfig: b.options.TLS.Clone()}
	defer transport.CloseIdleConnections()
	client := &http.Client{Timeout: monitorTimeout, Transport: transport}
	var all sync.WaitGroup
	for i, u := range b.options.MonitorURLs {
		all.Go(func() { list[i] = monitor(ctx, client, strings.TrimSuffix(u, "/")) })
	}
	all.Wait()
	return list
}

// monitor asks one.
func monitor(ctx context.Context, client *http.Client, url string) MonitorFacts {
	m := MonitorFacts{URL: url}
	var varz struct {
		Name      string `json:"server_name"`
		Version   string `json:"version"`
		JetStream struct {
			Config *struct {
				SyncAlways bool  `json:"sync_always"`
				MaxStore   int64 `json:"max_storage"`
			} `json:"config"`
			Stats struct {
				Store int64 `json:"storage"`
			} `json:"stats"`
			Meta *struct {
				Size int `json:"cluster_size"`
			} `json:"meta"`
		} `json:"jetstream"`
	}
	if m.Err = get(ctx, client, url+"/varz", &varz); m.Err != nil {
		return m
	}
	m.Server, m.Version = varz.Name, varz.Version
	if varz.JetStream.Config == nil {
		m.Err = errors.New("JetStream is switched off there")
		return m
	}
	m.SyncAlways, m.StoreLimitBytes, m.StoreUsedBytes = varz.JetStream.Config.SyncAlways, varz.JetStream.Config.MaxStore, varz.JetStream.Stats.Store
	if varz.JetStream.Meta != nil {
		m.ClusterSize = varz.JetStream.Meta.Size
	}
	return m
}

func get(ctx context.Context, client *http.Client, url string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("it answered %s", response.Status)
	}
	return json.NewDecoder(io.LimitReader(response.Body, 4<<20)).Decode(into)
}
