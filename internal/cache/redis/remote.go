package redis

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"millrace/internal/cache"
)

// late is by how much a put may arrive after it was told: less than changes are
// remembered for. A connection that hangs may bring it much later.
const late = 3 * time.Second

// rereads bounds how often something is read again because it changed meanwhile.
const rereads = 3

// Check is cache.Remote's. A server that was restarted, or another one in its place,
// is not believed in what it has from before.
func (r *Redis) Check(ctx context.Context, name string) (seq int64, err error) {
	c, err := r.connect(ctx)
	if err != nil {
		return 0, err
	}
	s := r.space(name)
	s.checking.Lock()
	defer s.checking.Unlock()
	for range rereads {
		dials := r.dials.Load()
		if seq, err = r.verify(ctx, c, s, name, dials); err != nil {
			return 0, err
		}
		if r.dials.Load() == dials { // else its own answers may have come over a new connection
			break
		}
	}
	return seq, nil
}

// verify compares the servers with those of before, unless no connection was begun
// since it last did. It returns the counter, or 0.
func (r *Redis) verify(ctx context.Context, c rueidis.Client, s *space, name string, dials int64) (int64, error) {
	if s.verified.Load() == dials {
		// Only whether it answers: who answers may be another one by now, whom to
		// compare with what was seen of the one before would be wrong.
		seq, err := c.Do(ctx, c.B().Hget().Key(s.meta).Field("s").Build()).AsInt64()
		if rueidis.IsRedisNil(err) {
			err = nil
		}
		if !misused(err) {
			return seq, r.explain(err)
		}
	}
	servers, err := r.servers(ctx, c)
	if err != nil {
		return 0, err
	}
	now, raised, err := r.check(ctx, c, s, servers)
	if err != nil {
		return 0, err
	}
	if raised {
		r.o.Logger.Warn("cache: Redis was restarted or replaced; what it holds from before is not used", "cache", name, "redis", r.where())
	}
	s.servers.Store(&servers)
	s.verified.Store(dials)
	return now.seq, nil
}

// servers names the runs of all masters that answer.
func (r *Redis) servers(ctx context.Context, c rueidis.Client) (string, error) {
	var runs []string
	for addr, node := range c.Nodes() {
		results := node.DoMulti(ctx, node.B().Info().Section("server").Build(), node.B().Info().Section("replication").Build())
		text := ""
		for _, result := range results {
			part, err := result.ToString()
			if err != nil {
				return "", r.explain(err)
			}
			text += part
		}
		run, role := field(text, "run_id"), field(text, "role")
		if run == "" || role == "" {
			return "", fmt.Errorf("redis at %s: INFO says neither run_id nor role; is something else answering in Redis's place?", addr)
		}
		if role == "master" {
			runs = append(runs, run)
		}
	}
	if len(runs) == 0 {
		return "", fmt.Errorf("redis at %s: it is a read-only replica; give the address of the master, or of the Sentinels", r.where())
	}
	slices.Sort(runs)
	return strings.Join(runs, " "), nil
}

// field reads a field of INFO.
func field(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// check reads the counter and the epoch, and makes them if there are none.
func (r *Redis) check(ctx context.Context, c rueidis.Client, s *space, servers string) (m counters, raised bool, err error) {
	v, err := r.runOne(ctx, c, s, call{&r.lua.check, s.meta, []string{servers}}).ToArray()
	if err != nil {
		return m, false, r.explain(err)
	}
	if len(v) != 4 {
		return m, false, r.explain(errForeign)
	}
	if m, err = readCounters(v); err != nil {
		return m, false, r.explain(err)
	}
	changed, err1 := v[2].AsInt64()
	now, err2 := v[3].AsInt64()
	s.epoch.Store(m.epoch)
	s.ahead.Store(now - time.Since(r.began).Milliseconds())
	return m, changed == 1, r.explain(errors.Join(err1, err2))
}

// counters are the counter of tags and the epoch.
type counters struct{ seq, epoch int64 }

// readCounters reads both; they are zero if they are not there.
func readCounters(v []rueidis.RedisMessage) (m counters, err error) {
	if len(v) < 2 {
		return m, errForeign
	}
	if v[0].IsNil() || v[1].IsNil() {
		return m, nil
	}
	seq, err1 := v[0].AsInt64()
	epoch, err2 := v[1].AsInt64()
	return counters{seq, epoch}, errors.Join(err1, err2)
}

// Read is cache.Remote's.
func (r *Redis) Read(ctx context.Context, name, key string, want cache.Want) (cache.Record, error) {
	c, err := r.connected()
	if err != nil {
		return cache.Record{}, err
	}
	s, dials := r.space(name), r.dials.Load()
	if s.verified.Load() != dials {
		return cache.Record{}, errUnverified
	}
	rec, err := r.read(ctx, c, s, key, want)
	if err == nil && r.dials.Load() != dials {
		err = errUnverified
	}
	return rec, r.explain(err)
}

func (r *Redis) read(ctx context.Context, c rueidis.Client, s *space, key string, want cache.Want) (cache.Record, error) {
	now, least := counters{}, s.epoch.Load()
	for n := range rereads {
		var first rueidis.Commands
		if n == 0 {
			first = rueidis.Commands{c.B().Hmget().Key(s.meta).Field("s", "a").Build()}
		}
		results := run(ctx, c, first, call{&r.lua.read, s.keys + key, []string{
			number(least), milliseconds(want.Left), want.Token, milliseconds(want.Lease)}})
		if n == 0 {
			v, err := results[0].ToArray()
			if err != nil && !misused(err) {
				return cache.Record{}, err
			}
			if now, err = r.counters(ctx, c, s, v, err); err != nil {
				return cache.Record{}, err
			}
		}
		result := results[len(results)-1]
		e, err := readEntry(result)
		if err != nil && (result.Error() == nil || misused(err)) {
			if err = r.mend(ctx, c, s, s.keys+key, err); err == nil {
				continue
			}
		}
		if err != nil {
			return cache.Record{}, err
		}
		e.Seq = now.seq
		if !e.Found {
			return e.Record, nil
		}
		if least, err = r.least(ctx, c, s, now.epoch, e.Tags); err != nil {
			return cache.Record{}, err
		}
		if e.seq >= least {
			return e.Record, nil
		}
	}
	return cache.Record{Seq: now.seq}, nil
}

// counters reads what HMGET answered, and makes them anew if they were lost or their
// key was misused.
func (r *Redis) counters(ctx context.Context, c rueidis.Client, s *space, v []rueidis.RedisMessage, misuse error) (now counters, err error) {
	if misuse == nil {
		now, err = readCounters(v)
	}
	if err != nil || now.epoch > 0 {
		s.epoch.Store(now.epoch)
		return now, err
	}
	now, _, err = r.check(ctx, c, s, *s.servers.Load())
	return now, err
}

// least is the counter below which an entry with tags is not believed.
func (r *Redis) least(ctx context.Context, c rueidis.Client, s *space, epoch int64, tags []string) (int64, error) {
	if len(tags) == 0 {
		return epoch, nil
	}
	commands := make(rueidis.Commands, len(tags))
	for i, tag := range tags {
		commands[i] = c.B().Get().Key(s.tags + tag).Build()
	}
	for i, result := range c.DoMulti(ctx, commands...) {
		n, err := result.AsInt64()
		if misused(err) { // when it was told of last is lost, so nothing is believed
			if n, err = r.raise(ctx, c, s, "1"); err == nil {
				err = r.mend(ctx, c, s, s.tags+tags[i], result.Error())
			}
		}
		if err != nil && !rueidis.IsRedisNil(err) {
			return 0, err
		}
		epoch = max(epoch, n)
	}
	return epoch, nil
}

// entry is a record with its own counter.
type entry struct {
	cache.Record
	seq int64
}

// readEntry reads the answer of the script read.
func readEntry(result rueidis.RedisResult) (e entry, err error) {
	v, err := result.ToArray()
	if err != nil {
		return e, err
	}
	if len(v) != 2 && len(v) != 9 {
		return e, errForeign
	}
	var errs []error
	num := func(i int) int64 {
		n, err := v[i].AsInt64()
		errs = append(errs, err)
		return n
	}
	text := func(i int) string {
		s, err := v[i].ToString()
		errs = append(errs, err)
		return s
	}
	e.Found, e.Leased = num(0) == 1, num(1) == 1
	if len(v) == 9 {
		e.Data, e.Version = []byte(text(2)), num(3)
		e.Tags, err = splitTags(text(4))
		e.Negative = text(5) == "n"
		e.Left, e.Age = time.Duration(num(6))*time.Millisecond, time.Duration(max(num(7), 0))*time.Millisecond
		e.seq = num(8)
	}
	return e, errors.Join(append(errs, err)...)
}

// Store is cache.Remote's.
func (r *Redis) Store(ctx context.Context, name, key, token string, rec cache.Record) (bool, error) {
	s := r.space(name)
	return r.one(ctx, s, call{&r.lua.store, s.keys + key, append(written(rec), token)})
}

// Release is cache.Remote's.
func (r *Redis) Release(ctx context.Context, name, key, token string) error {
	s := r.space(name)
	_, err := r.one(ctx, s, call{&r.lua.release, s.keys + key, []string{token}})
	return err
}

// one makes one call that answers 1 or 0.
func (r *Redis) one(ctx context.Context, s *space, cl call) (bool, error) {
	c, err := r.connected()
	if err != nil {
		return false, err
	}
	n, err := r.runOne(ctx, c, s, cl).AsInt64()
	return n == 1, r.explain(err)
}

// written are the arguments of writeLua.
func written(rec cache.Record) []string {
	negative := ""
	if rec.Negative {
		negative = "n"
	}
	return []string{string(rec.Data), version(rec.Version), number(rec.Seq), joinTags(rec.Tags), milliseconds(rec.Left), milliseconds(rec.Keep), negative}
}

// Tell is cache.Remote's.
func (r *Redis) Tell(ctx context.Context, name string, news []cache.News) (int64, error) {
	c, err := r.connected()
	if err != nil {
		return 0, err
	}
	s := r.space(name)
	var seq int64
	if slices.ContainsFunc(news, func(n cache.News) bool { return n.Version == 0 }) {
		// First: what is loaded or put from now on is newer than what they say.
		if seq, err = r.raise(ctx, c, s, "0"); err != nil {
			return 0, err
		}
	}
	calls := make([]call, len(news))
	for i, n := range news {
		switch {
		case n.Tag != "":
			calls[i] = call{&r.lua.tag, s.tags + n.Tag, []string{number(seq), milliseconds(n.Keep)}}
		case n.Put != nil:
			until := time.Since(r.began).Milliseconds() + s.ahead.Load() + late.Milliseconds()
			calls[i] = call{&r.lua.put, s.keys + n.Key, append(written(*n.Put), number(until), milliseconds(n.Keep))}
		default:
			calls[i] = call{&r.lua.invalidate, s.keys + n.Key, []string{version(n.Version), milliseconds(n.Keep), number(seq), flag(n.Forget)}}
		}
	}
	for i, result := range run(ctx, c, nil, calls...) {
		if err := result.Error(); misused(err) {
			if err = r.mend(ctx, c, s, calls[i].key, err); err != nil {
				return 0, r.explain(err)
			}
			result = run(ctx, c, nil, calls[i])[0]
		}
		answer, err := result.AsInt64()
		if err != nil {
			return 0, r.explain(err)
		}
		if calls[i].script == &r.lua.put && answer < 0 { // a clock may have been set
			s.ahead.Store(-answer - time.Since(r.began).Milliseconds())
		}
	}
	return seq, nil
}

// Distrust is cache.Remote's.
func (r *Redis) Distrust(ctx context.Context, name string) error {
	c, err := r.connected()
	if err != nil {
		return err
	}
	_, err = r.raise(ctx, c, r.space(name), "1")
	return err
}

func (r *Redis) raise(ctx context.Context, c rueidis.Client, s *space, epoch string) (int64, error) {
	n, err := r.runOne(ctx, c, s, call{&r.lua.raise, s.meta, []string{epoch}}).AsInt64()
	return n, r.explain(err)
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func milliseconds(d time.Duration) string { return number(max(d.Milliseconds(), 1)) }

func version(v int64) string { return fmt.Sprintf("%019d", v) }

// joinTags and splitTags put each tag's length before it.
func joinTags(tags []string) string {
	var b []byte
	for _, tag := range tags {
		b = append(binary.AppendUvarint(b, uint64(len(tag))), tag...)
	}
	return string(b)
}

func splitTags(s string) (tags []string, err error) {
	for b := []byte(s); len(b) > 0; {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return nil, errForeign
		}
		tags, b = append(tags, string(b[size:size+int(n)])), b[size+int(n):]
	}
	return tags, nil
}
