package postgres

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// setting is one of pg_settings.
type setting struct {
	value string
	// number is the value in bytes or as a duration in nanoseconds where it is one,
	// else as it is; 0 if it is none.
	number int64
}

// The units of pg_settings.
var unitSizes = map[string]int64{
	"": 1, "B": 1, "kB": 1 << 10, "8kB": 8 << 10, "MB": 1 << 20, "16MB": 16 << 20, "GB": 1 << 30,
	"ms": int64(time.Millisecond), "s": int64(time.Second), "min": int64(time.Minute),
}

func (s setting) bytes() string { return inBytes(s.number) }

func inBytes(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.0f MB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d kB", n>>10)
}

// advice is how a setting should be.
type advice struct {
	name     string
	bad      func(s setting) bool
	grade    Grade
	found    func(s setting) string
	want     string
	why, fix string
}

func asIs(s setting) string       { return s.value }
func asDuration(s setting) string { return time.Duration(s.number).String() }
func is(values ...string) func(setting) bool {
	return func(s setting) bool {
		for _, v := range values {
			if s.value == v {
				return true
			}
		}
		return false
	}
}
func below(n int64) func(setting) bool { return func(s setting) bool { return s.number < n } }

// settingAdvice is what the server's settings should be. withReplica adds what a
// replica needs.
func settingAdvice(withReplica bool) []advice {
	list := []advice{
		{"fsync", is("off"), Failure, asIs, "on", "without it a power cut destroys the database", "fsync = on"},
		{"full_page_writes", is("off"), Failure, asIs, "on", "without it a power cut can tear pages", "full_page_writes = on"},
		{"synchronous_commit", is("off"), Failure, asIs, "on", "without it orders that were confirmed are lost when the server dies", "synchronous_commit = on"},
		{"autovacuum", is("off"), Failure, asIs, "on", "stock and orders change all the time; without it they bloat until the server stops", "autovacuum = on"},
		{"shared_buffers", below(256 << 20), Warning, setting.bytes, "a quarter of the memory, at least 256 MB", "what is not in it is read again and again", "shared_buffers = a quarter of the memory"},
		{"max_wal_size", below(4 << 30), Warning, setting.bytes, "4 GB or more", "checkpoints that come too often write every page anew", "max_wal_size = 8GB, as far as the disk allows"},
		{"checkpoint_timeout", below(int64(15 * time.Minute)), Warning, asDuration, "15 min or more", "checkpoints that come too often write every page anew", "checkpoint_timeout = 15min"},
		{"wal_compression", is("off"), Warning, asIs, "lz4, or on", "whole pages are most of the log of orders", "wal_compression = lz4, or on where the server has none"},
		{"backend_flush_after", below(1), Warning, setting.bytes, "512 kB", "what is copied goes out in bursts, which hold up an event log on the same disk", "backend_flush_after = 512kB, or nothing if no instance's data directory is on the server's disk"},
		{"track_counts", is("off"), Failure, asIs, "on", "autovacuum goes by them", "track_counts = on"},
	}
	if withReplica {
		list = append(list, advice{"wal_level", is("minimal"), Failure, asIs, "replica", "a replica is fed by it", "wal_level = replica"})
	}
	return list
}

func (e *examination) readSettings(ctx context.Context) error {
	rows, err := e.conn.Query(ctx, `SELECT name, setting, coalesce(unit, '') FROM pg_settings`)
	if err != nil {
		return in("read the settings", err)
	}
	e.settings = map[string]setting{}
	var name, value, unit string
	if _, err := pgx.ForEachRow(rows, []any{&name, &value, &unit}, func() error {
		s := setting{value: value}
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			s.number = n * unitSizes[unit]
		}
		e.settings[name] = s
		return nil
	}); err != nil {
		return in("read the settings", err)
	}
	for _, a := range settingAdvice(e.o.ReplicaDSN != "") {
		s, there := e.settings[a.name]
		if !there {
			e.add(Check{"setting " + a.name, Unknown, "not shown", a.want, a.why, ""})
			continue
		}
		wrong := a.bad(s)
		e.add(Check{"setting " + a.name, grade(wrong, a.grade), a.found(s), a.want, a.why, fix(wrong, "set in postgresql.conf: "+a.fix)})
	}
	return nil
}

// connections compares what the instances may open with what the server allows.
func (e *examination) connections(ctx context.Context) error {
	instances := 1
	if e.migrated {
		err := e.conn.QueryRow(ctx, `SELECT count(*) FROM instances WHERE heartbeat_ns > $1`, time.Now().Add(-time.Minute).UnixNano()).Scan(&instances)
		if err != nil {
			return in("count the instances", err)
		}
		instances = max(instances, 1)
	}
	has := e.settings["max_connections"].number - e.settings["superuser_reserved_connections"].number - e.settings["reserved_connections"].number
	want := int64(instances * e.o.MaxConns)
	wrong := has < want
	e.add(Check{"connections", grade(wrong, Failure), fmt.Sprintf("%d", has), fmt.Sprintf("%d: %d instances of up to %d", want, instances, e.o.MaxConns),
		"what is refused a connection fails", fix(wrong, "raise max_connections, or lower Millrace's own bound")})
	return nil
}

func (e *examination) partitions(ctx context.Context) error {
	if !e.migrated {
		return nil
	}
	n, err := partitionsAhead(ctx, e.conn, time.Now())
	if err != nil {
		return err
	}
	wrong := n < e.o.PartitionsAhead
	e.add(Check{"partitions ahead", grade(wrong, Warning), fmt.Sprintf("%d days", n), fmt.Sprintf("%d days", e.o.PartitionsAhead),
		"a day's first events wait while its partition is made", fix(wrong, "run an instance: it makes them within a minute")})
	return nil
}

// slots looks for replication slots that keep the log of changes for nobody.
func (e *examination) slots(ctx context.Context) error {
	rows, err := e.conn.Query(ctx, `SELECT slot_name::text, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint
FROM pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL AND NOT pg_is_in_recovery() ORDER BY 1`)
	if err != nil {
		return in("read the replication slots", err)
	}
	var name string
	var kept int64
	_, err = pgx.ForEachRow(rows, []any{&name, &kept}, func() error {
		e.add(Check{"replication slot " + name, Warning, "nobody reads it; " + inBytes(kept) + " of the log are kept for it", "read, or dropped", "the log is kept until the disk is full",
			"start its replica, or SELECT pg_drop_replication_slot(…)"})
		return nil
	})
	return in("read the replication slots", err)
}

// Free space below which there is a warning: a part of the disk, or a size.
const (
	minFreePart  = 0.1
	minFreeBytes = 10 << 30
)

func (e *examination) size(ctx context.Context) error {
	var size int64
	if err := e.conn.QueryRow(ctx, `SELECT pg_database_size(current_database())`).Scan(&size); err != nil {
		return in("read the size of the database", err)
	}
	e.add(Check{"size", OK, inBytes(size), "", "", ""})
	c := Check{Name: "disk", Grade: Unknown, Found: "PostgreSQL does not tell", Want: "a tenth and 10 GB free", Why: "a full disk stops every write", Fix: "watch it on the server's machine"}
	// The directory is shown to those who may see all settings, and means something
	// here only if the server is on this machine and not in a container of its own.
	if s, shown := e.settings["data_directory"]; shown && isLocal(e.conn.PgConn().Conn().RemoteAddr()) {
		if free, total, ok := diskSpace(s.value); ok {
			wrong := free < minFreeBytes || float64(free) < minFreePart*float64(total)
			c.Grade, c.Found, c.Fix = grade(wrong, Warning), fmt.Sprintf("%s of %s free", inBytes(free), inBytes(total)), fix(wrong, "make room, or keep events for fewer days")
		}
	}
	e.add(c)
	return nil
}

// lagBytes is how much of the log a replica may lack before it is worth a warning.
const lagBytes = 64 << 20

// replica looks at the replica, if there is one.
func (e *examination) replica(ctx context.Context) error {
	if e.o.ReplicaDSN == "" {
		return nil
	}
	const without = "the primary answers what the replica would"
	if _, err := parse(&e.o, e.o.ReplicaDSN); err != nil {
		e.add(Check{"replica", Failure, err.Error(), "a connection string", without, "mend the connection string"})
		return nil
	}
	conn, err := examineConn(ctx, &e.o, e.o.ReplicaDSN)
	if err != nil {
		e.add(Check{"replica", Failure, err.Error(), "a connection", without, "start the replica, or leave it out of the configuration"})
		return nil
	}
	defer conn.Close(context.WithoutCancel(ctx))
	primaryID, err := systemIdentifier(ctx, e.conn)
	if err != nil {
		return err
	}
	id, err := systemIdentifier(ctx, conn)
	if err != nil {
		return err
	}
	var recovering bool
	if err := conn.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&recovering); err != nil {
		return in("ask the replica whether it is one", err)
	}
	if c := (Check{Name: "replica", Grade: Failure, Want: "a streaming replica of the primary", Why: without}); id != primaryID {
		c.Found, c.Fix = "another database cluster", "give the connection string of a streaming replica of the primary"
		e.add(c)
		return nil
	} else if !recovering {
		c.Found, c.Fix = "not in recovery: it is a primary", "give the connection string of a streaming replica, or none"
		e.add(c)
		return nil
	}
	e.add(Check{"replica", OK, "a streaming replica of the primary", "a streaming replica of the primary", without, ""})
	return e.lag(ctx, conn)
}

func (e *examination) lag(ctx context.Context, conn *pgx.Conn) error {
	var at string
	if err := e.conn.QueryRow(ctx, `SELECT pg_current_wal_lsn()::text`).Scan(&at); err != nil {
		return in("read how far the primary is", err)
	}
	var lacks int64
	var feedback string
	if err := conn.QueryRow(ctx, `SELECT greatest(0, pg_wal_lsn_diff($1::text::pg_lsn, pg_last_wal_replay_lsn()))::bigint, current_setting('hot_standby_feedback')`, at).Scan(&lacks, &feedback); err != nil {
		return in("read how far the replica is", err)
	}
	behind := lacks > lagBytes
	e.add(Check{"replica's lag", grade(behind, Warning), inBytes(lacks), "at most " + inBytes(lagBytes), "one that is too old is not used",
		fix(behind, "look at the network and the disk of the replica, and at what it is busy with")})
	off := feedback != "on"
	e.add(Check{"replica's setting hot_standby_feedback", grade(off, Warning), feedback, "on", "without it long reads on the replica are ended when the primary cleans up",
		fix(off, "set in the replica's postgresql.conf: hot_standby_feedback = on")})
	return nil
}
