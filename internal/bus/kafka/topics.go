package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"millrace/internal/bus"
)

// What is broadcast is of no use a little later.
const (
	broadcastBytes = 16 << 20
	broadcastAge   = 10 * time.Minute
)

// spec is what a topic is created with.
type spec struct {
	partitions int32
	bytes      int64
	age        time.Duration
}

// stock is what is known of the topics. It is safe for concurrent use.
type stock struct {
	mu     sync.Mutex // guards what follows
	wanted map[string]spec
	found  map[string]kadm.TopicID // as last seen; none until first furnished
}

func newStock(b *Bus) *stock {
	s := &stock{wanted: map[string]spec{}, found: map[string]kadm.TopicID{}}
	for _, subject := range b.options.Subjects {
		s.wanted[b.names.of(subject)] = b.ordinary()
	}
	s.wanted[b.names.broadcast()] = spec{1, broadcastBytes, broadcastAge}
	return s
}

func (b *Bus) ordinary() spec {
	return spec{int32(b.options.Partitions), b.options.RetentionBytes, b.options.RetentionAge}
}

// want adds a topic to those that are kept up.
func (s *stock) want(name string, as spec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted[name] = as
}

// missing returns the topics that have not been seen.
func (s *stock) missing() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.wanted {
		if _, ok := s.found[name]; !ok {
			names = append(names, name)
		}
	}
	return names
}

// id returns a topic's id as last seen.
func (s *stock) id(name string) kadm.TopicID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found[name]
}

func (s *stock) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.wanted))
}

// saw notes what the brokers said of a topic, and says whether it is another one
// than before under the same name.
func (s *stock) saw(name string, id kadm.TopicID) (replaced bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, ok := s.found[name]
	s.found[name] = id
	return ok && before != id
}

// furnish creates the topics that are not there. With all set it asks for every
// one of them, otherwise for those that have not been seen yet.
func (b *Bus) furnish(ctx context.Context, all bool) error {
	if !all && len(b.stock.missing()) == 0 {
		return nil
	}
	reaching, done, err := b.health.reach(ctx)
	if err != nil {
		return b.failed("look for the topics", err)
	}
	defer done()
	select {
	case b.furnishing <- struct{}{}:
		defer func() { <-b.furnishing }()
	case <-reaching.Done():
		return b.failed("look for the topics", lost(reaching, reaching.Err()))
	}
	names := b.stock.missing()
	if all {
		names = b.stock.names()
	}
	if len(names) == 0 {
		return nil // another has seen to it meanwhile
	}
	replaced := false
	for {
		absent, again, err := b.see(reaching, names)
		replaced = replaced || again
		if err == nil && len(absent) == 0 {
			break
		}
		if err == nil {
			err = b.create(reaching, absent)
		}
		if err != nil {
			return b.failed("create the topics "+fmt.Sprint(names), lost(reaching, err))
		}
		names = absent // until the brokers tell of them
		if !pause(reaching, 50*time.Millisecond) {
			return b.failed("wait for new topics", lost(reaching, reaching.Err()))
		}
	}
	if replaced {
		b.replaced()
	}
	return nil
}

// see asks the brokers for topics and returns those that are not there.
func (b *Bus) see(ctx context.Context, names []string) (absent []string, replaced bool, err error) {
	details, err := b.admin.ListTopics(ctx, names...)
	if err != nil {
		return nil, false, err
	}
	for _, name := range names {
		d, ok := details[name]
		switch {
		case !ok, errors.Is(d.Err, kerr.UnknownTopicOrPartition), d.Err == nil && len(d.Partitions) == 0:
			absent = append(absent, name)
		case d.Err != nil:
			return nil, replaced, fmt.Errorf("the topic %s: %w", name, d.Err)
		default:
			if b.stock.saw(name, d.ID) {
				replaced = true
			}
		}
	}
	return absent, replaced, nil
}

func (b *Bus) create(ctx context.Context, names []string) error {
	for _, name := range names {
		b.stock.mu.Lock()
		as := b.stock.wanted[name]
		b.stock.mu.Unlock()
		r, err := b.admin.CreateTopic(ctx, as.partitions, int16(b.options.ReplicationFactor), b.configs(as), name)
		if err == nil {
			err = r.Err
		}
		if errors.Is(err, kerr.TopicAlreadyExists) {
			continue
		}
		if err != nil {
			if r.ErrMessage != "" {
				return fmt.Errorf("the topic %s: %w (%s)", name, err, r.ErrMessage)
			}
			return fmt.Errorf("the topic %s: %w", name, err)
		}
		b.options.Logger.Info("created a topic", "topic", name, "partitions", as.partitions, "replicas", b.options.ReplicationFactor)
	}
	return nil
}

// configs returns what a topic is created with besides its partitions.
func (b *Bus) configs(s spec) map[string]*string {
	insync := 1
	if b.options.ReplicationFactor >= 3 {
		insync = 2
	}
	text := map[string]string{
		"cleanup.policy":      "delete",
		"retention.bytes":     strconv.FormatInt(s.bytes, 10),
		"retention.ms":        strconv.FormatInt(s.age.Milliseconds(), 10),
		"max.message.bytes":   strconv.Itoa(b.options.MaxMessageBytes + envelopeBytes),
		"min.insync.replicas": strconv.Itoa(insync),
		// What is retained is bounded by whole segments.
		"segment.bytes": strconv.FormatInt(max(s.bytes/8, 1<<20), 10),
	}
	if s.bytes/8 < int64(b.options.MaxMessageBytes+envelopeBytes) {
		text["segment.bytes"] = strconv.Itoa(2 * (b.options.MaxMessageBytes + envelopeBytes))
	}
	if b.options.ReplicationFactor > 1 {
		text["unclean.leader.election.enable"] = "false"
	}
	out := make(map[string]*string, len(text))
	for k, v := range text {
		out[k] = &v
	}
	return out
}

// recheck looks whether the topics that were there still are, and makes them anew:
// the brokers may have come back empty.
func (b *Bus) recheck(ctx context.Context) {
	b.stock.mu.Lock()
	used := len(b.stock.found) > 0
	b.stock.mu.Unlock()
	if !used {
		return // nobody has needed them yet
	}
	ctx, cancel := context.WithTimeout(ctx, pingWithin) // the next ping waits for it
	defer cancel()
	if err := b.furnish(ctx, true); err != nil && ctx.Err() == nil && !errors.Is(err, bus.ErrUnavailable) {
		b.options.Logger.Error("the topics could not be looked at", "error", err)
	}
}

// replaced has everyone who reads begin anew: topics are others under their names.
func (b *Bus) replaced() {
	b.options.Logger.Warn("the broker's topics are new; what they held is lost, and found again in the database")
	b.client.PurgeTopicsFromProducing(b.stock.names()...)
	for _, s := range b.groups() {
		s.nudge()
	}
	b.mu.Lock()
	e := b.ear
	b.mu.Unlock()
	if e != nil {
		e.nudge()
	}
}

// pause waits, and says whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
