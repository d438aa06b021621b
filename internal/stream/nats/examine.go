package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/stream"
)

// Examine looks at the streams for an operator, and whether the servers take the
// largest record. It changes nothing: streams that are missing are made by the
// first server that starts. It takes a few seconds at most.
func Examine(ctx context.Context, o Options, recordBytes int) stream.Facts {
	var f stream.Facts
	o, err := o.withDefaults()
	if err != nil {
		f.Problem("%v", err)
		return f
	}
	options := append(o.connectOptions(), natsgo.RetryOnFailedConnect(false))
	nc, err := natsgo.Connect(o.URL, options...)
	if err != nil {
		f.Problem("the stream's servers cannot be reached: %v", err)
		return f
	}
	defer nc.Close()
	f.Reachable = true
	b := &Broker{o: o, nc: nc}
	if b.js, err = jetstream.New(nc); err != nil {
		f.Problem("the client of JetStream cannot be set up: %v", err)
		return f
	}
	f.CheckRecord(b.MaxMessageBytes(), recordBytes)
	infos, errs := make([]*jetstream.StreamInfo, o.Partitions+1), make([]error, o.Partitions+1)
	var looks sync.WaitGroup
	for n := range infos {
		looks.Go(func() { infos[n], errs[n] = b.lookAt(ctx, n) })
	}
	looks.Wait()
	var there int
	var silent []string
	var why error // the last's
	var messages, bytes uint64
	for n, info := range infos[:o.Partitions] {
		if errs[n] != nil {
			silent, why = append(silent, b.name(n)), errs[n]
		}
		if info == nil {
			continue
		}
		there++
		messages, bytes = messages+info.State.Msgs, bytes+info.State.Bytes
		b.judge(&f, n, info)
	}
	if len(silent) > 0 {
		f.Problem("streams cannot be looked at, they may have no leader: start enough of the servers: %s: %v", strings.Join(silent, ", "), why)
	}
	if err := b.beyond(infos[o.Partitions]); err != nil {
		f.Problem("%v", err)
	}
	f.Found = fmt.Sprintf("%d of %d partitions are there, with %d messages of %d bytes", there, o.Partitions, messages, bytes)
	return f
}

// lookAt asks for a partition's stream; nil if it is not there.
func (b *Broker) lookAt(ctx context.Context, partition int) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, b.o.AttemptTimeout)
	defer cancel()
	s, err := b.js.Stream(ctx, b.name(partition))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.CachedInfo(), nil
}

// judge adds what is wrong with a partition.
func (b *Broker) judge(f *stream.Facts, partition int, info *jetstream.StreamInfo) {
	if faults := b.faults(partition, &info.Config); len(faults) > 0 {
		f.Problem("%v", &ConfigError{Stream: info.Config.Name, Faults: faults})
	}
	if limit := info.Config.MaxBytes; limit > 0 && info.State.Bytes > uint64(limit)/10*9 {
		f.Problem("the stream %s has %d of its %d bytes: see whether its events are brought into the database, or raise events.stream.maxBytes", info.Config.Name, info.State.Bytes, limit)
	}
	if info.Cluster == nil {
		return
	}
	if info.Cluster.Leader == "" {
		f.Problem("the stream %s has no leader: start enough of its servers", info.Config.Name)
	}
	var behind []string
	for _, r := range info.Cluster.Replicas {
		if r.Offline || !r.Current {
			behind = append(behind, r.Name)
		}
	}
	if len(behind) > 0 {
		f.Problem("replicas of the stream %s are offline or behind: %s", info.Config.Name, strings.Join(behind, ", "))
	}
}
