package nats

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/event"
)

// ConfigError says that a stream on the servers is not as it must be.
type ConfigError struct {
	// Stream is its name.
	Stream string
	// Faults say what is wrong and what to change.
	Faults []string
}

func (e *ConfigError) Error() string {
	return "the stream " + e.Stream + " cannot be used: " + strings.Join(e.Faults, "; ")
}

// want is how a partition's stream is made.
func (b *Broker) want(partition int) jetstream.StreamConfig {
	var word [6]byte
	_, _ = rand.Read(word[:]) // never fails
	return jetstream.StreamConfig{
		Name:        b.name(partition),
		Description: "Accepted events that are not yet in the database. Do not edit or delete while it has messages.",
		Subjects:    []string{b.name(partition) + "." + hex.EncodeToString(word[:])},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    b.o.MaxBytes,
		Duplicates:  b.o.Duplicates,
		Replicas:    b.o.Replicas,
		PersistMode: jetstream.DefaultPersistMode,
		DenyDelete:  false, // an operator may have to remove a message that is not ours
	}
}

// subject returns the subject of a partition as it is now, and makes its stream if
// that is not there. Unless fresh is asked for, what was known last will do.
func (b *Broker) subject(ctx context.Context, partition int, fresh bool) (string, error) {
	b.mu.Lock()
	known := b.subjects[partition]
	b.mu.Unlock()
	if known != "" && !fresh {
		return known, nil
	}
	b.furnishing.Lock()
	defer b.furnishing.Unlock()
	s, err := b.js.Stream(ctx, b.name(partition))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if known != "" {
			b.o.Logger.Error("a stream of events is gone and is made anew; what was in it and not yet in the database is lost", "stream", b.name(partition))
		}
		s, err = b.js.CreateStream(ctx, b.want(partition))
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another instance was faster
			s, err = b.js.Stream(ctx, b.name(partition))
		}
	}
	if err != nil {
		return "", fmt.Errorf("making the stream %s: %w", b.name(partition), unfit(b.name(partition), err))
	}
	config := &s.CachedInfo().Config
	if faults := b.faults(partition, config); len(faults) > 0 {
		return "", &ConfigError{Stream: b.name(partition), Faults: faults}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subjects[partition] = config.Subjects[0]
	return config.Subjects[0], nil
}

// unfit turns the servers' answer to a wish they cannot fulfil into a ConfigError.
func unfit(stream string, err error) error {
	const noReplicas, noResources = 10074, 10023
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == noReplicas {
		return &ConfigError{Stream: stream, Faults: []string{"the servers are no cluster, so they cannot keep replicas: use a cluster of at least three, or set events.stream.replicas to 1, which loses events with the one server's disk"}}
	}
	if errors.As(err, &api) && api.ErrorCode == noResources {
		return fmt.Errorf("the servers have too little storage for it, or too few of them are up: raise max_file_store, or lower events.stream.maxBytes: %w", err)
	}
	return err
}

// lookAgain asks for the subject of a partition where nobody listened to the one
// that was known, at most once in a second.
func (b *Broker) lookAgain(ctx context.Context, partition int) {
	b.mu.Lock()
	recently := time.Since(b.askedAt[partition]) < time.Second
	if !recently {
		b.askedAt[partition] = time.Now()
	}
	b.mu.Unlock()
	if recently {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, b.o.AttemptTimeout)
	defer cancel()
	if _, err := b.subject(ctx, partition, true); err != nil {
		b.o.Logger.Warn("a partition of the stream takes nothing", "error", err)
	}
}

// faults says how a stream differs from what it must be.
func (b *Broker) faults(partition int, c *jetstream.StreamConfig) []string {
	var faults []string
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	edit := "`nats stream edit " + c.Name + " "
	fault(len(c.Subjects) != 1 || !b.isOurs(partition, c.Subjects[0]), "its subjects are %q and not the one that Millrace gave it: another program uses the name, choose another events.stream.name", c.Subjects)
	fault(c.Storage != jetstream.FileStorage, "it is kept in memory: delete it, and it is made on files")
	fault(c.Retention != jetstream.LimitsPolicy, "its retention is %s and must be limits: delete it once it is empty, and it is made anew", c.Retention)
	fault(c.Discard != jetstream.DiscardNew, "it drops old messages when it is full, which loses events: %s--discard=new`", edit)
	fault(c.Replicas < b.o.Replicas, "it has %d replicas and events.stream.replicas is %d: %s--replicas=%d`", c.Replicas, b.o.Replicas, edit, b.o.Replicas)
	fault(c.MaxBytes != b.o.MaxBytes, "its bound is %d bytes and events.stream.maxBytes is %d: %s--max-bytes=%d`, or change the configuration", c.MaxBytes, b.o.MaxBytes, edit, b.o.MaxBytes)
	fault(c.MaxAge != 0, "it drops messages after %v, which loses events: %s--max-age=0`", c.MaxAge, edit)
	fault(c.MaxMsgs > 0 || c.MaxMsgsPerSubject > 0, "it is bounded in messages: %s--max-msgs=-1 --max-msgs-per-subject=-1`", edit)
	fault(c.MaxMsgSize > 0 && int64(c.MaxMsgSize) < b.nc.MaxPayload(), "it takes messages of at most %d bytes: %s--max-msg-size=-1`", c.MaxMsgSize, edit)
	fault(c.Duplicates < b.o.Duplicates, "it remembers message ids for %v and must for %v: %s--dupe-window=%v`", c.Duplicates, b.o.Duplicates, edit, b.o.Duplicates)
	fault(c.PersistMode != jetstream.DefaultPersistMode, "it acknowledges before it has written (persist mode %s): delete it once it is empty, and it is made anew", c.PersistMode)
	fault(c.NoAck, "it does not acknowledge: %s--ack`", edit)
	fault(c.Sealed || c.DenyPurge, "it cannot be trimmed (sealed or deny_purge): delete it once it is empty, and it is made anew")
	fault(c.Mirror != nil || len(c.Sources) > 0, "it takes messages from other streams: delete it once it is empty, and it is made anew")
	return faults
}

// logID names a stream for its life: by its name, when it was made, and the random
// word of its subject.
func logID(info *jetstream.StreamInfo) event.LogID {
	h := sha256.New()
	var created [8]byte
	binary.BigEndian.PutUint64(created[:], uint64(info.Created.UnixNano()))
	for _, part := range []string{"nats", info.Config.Name, string(created[:]), strings.Join(info.Config.Subjects, " ")} {
		var length [4]byte
		binary.BigEndian.PutUint32(length[:], uint32(len(part)))
		h.Write(length[:])
		h.Write([]byte(part))
	}
	return event.LogID(h.Sum(nil)[:16])
}
