package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Instance is a process that uses the store.
type Instance struct {
	// ID is its Options.Instance.
	ID string
	// StartedAt is when it opened the store, and HeartbeatAt when it said last that it
	// lives, both by its own clock.
	StartedAt, HeartbeatAt time.Time
	// Details are its Options.Details.
	Details string
}

const (
	// beatEvery is how often an instance says that it lives, and beatTimeout how long
	// saying it may take.
	beatEvery   = time.Second
	beatTimeout = 3 * time.Second
	// forgetEvery is how often the rows are removed of instances that said nothing for
	// forgetAfter.
	forgetEvery = time.Hour
	forgetAfter = 24 * time.Hour
)

// The statements of instances. They belong to no tenant: tenant_id is empty.
const (
	// beat answers with when the process started that wrote the row last, NULL if there
	// was none.
	beatStatement = `WITH before AS (SELECT started_ns FROM instances WHERE tenant_id = '' AND id = $1)
INSERT INTO instances (tenant_id, id, started_ns, heartbeat_ns, details) VALUES ('', $1, $2, $3, $4)
ON CONFLICT (tenant_id, id) DO UPDATE
SET started_ns = excluded.started_ns, heartbeat_ns = excluded.heartbeat_ns, details = excluded.details
RETURNING (SELECT started_ns FROM before)`

	leaveStatement = `DELETE FROM instances WHERE tenant_id = '' AND id = $1 AND started_ns = $2`

	forgetStatement = `DELETE FROM instances WHERE tenant_id = '' AND heartbeat_ns < $1`

	listInstances = `SELECT id, started_ns, heartbeat_ns, details FROM instances WHERE tenant_id = '' ORDER BY id`
)

// Instances returns the processes that use the store and those that did within the
// last day and ended without saying so, in order of ID.
func (db *DB) Instances(ctx context.Context) ([]Instance, error) {
	ctx, cancel := db.deadline(ctx)
	defer cancel()
	rows, err := db.vital.Query(ctx, listInstances)
	if err != nil {
		return nil, in("list the instances", err)
	}
	defer rows.Close()
	var list []Instance
	for rows.Next() {
		var i Instance
		var started, beat int64
		if err := rows.Scan(&i.ID, &started, &beat, &i.Details); err != nil {
			return nil, in("list the instances", err)
		}
		i.StartedAt, i.HeartbeatAt = time.Unix(0, started).UTC(), time.Unix(0, beat).UTC()
		list = append(list, i)
	}
	return list, in("list the instances", rows.Err())
}

// heart says that this instance lives.
type heart struct {
	db        *DB
	startedNs int64
	failing   bool // the last beat was not taken
	doubled   bool // another process has this one's name
	forgotten time.Time
}

// ErrNameTaken is the answer of Open when another process that runs has the name.
var ErrNameTaken = errors.New("another process runs under this instance's name; give every process a name of its own")

const (
	// nameSilence is how long a process of the same name has to be silent before it
	// counts as ended, and namePoll how often it is listened for.
	nameSilence = 3 * time.Second
	namePoll    = 100 * time.Millisecond

	// askForName asks when who has the name began and spoke last, and how many
	// connections it has. It is asked on this process's only connection to the primary.
	askForName = `SELECT coalesce(max(i.started_ns), 0), coalesce(max(i.heartbeat_ns), 0),
  (SELECT count(*) FROM pg_stat_activity WHERE application_name = $2 AND datname = current_database() AND usename = session_user AND pid <> pg_backend_pid())
FROM instances i WHERE i.tenant_id = '' AND i.id = $1`
)

// claimName waits until nobody else has this instance's name, and takes it with the
// first heartbeat. After a process was killed the next of its name need not wait:
// its connections are gone. If they are not, since its machine is gone, it has been
// silent for nameSilence before it counts as ended. ErrNameTaken says that it lives.
func (h *heart) claimName(ctx context.Context) error {
	var heard int64
	var since time.Time
	tick := time.NewTicker(namePoll)
	defer tick.Stop()
	for {
		var started, beat int64
		var connections int
		o := &h.db.o
		if err := h.db.vital.QueryRow(ctx, askForName, o.Instance, applicationName(o.Instance)).Scan(&started, &beat, &connections); err != nil {
			return in("look for another process of this instance's name", err)
		}
		if since.IsZero() {
			heard, since = beat, time.Now()
		}
		switch {
		case beat > 0 && beat != heard:
			return fmt.Errorf("instance %q: %w", o.Instance, ErrNameTaken)
		case started == 0 || connections == 0 || time.Since(since) >= nameSilence:
			return h.takeName(ctx, started)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// takeName says for the first time that this instance lives, in place of one that
// began at a time, 0 for none.
func (h *heart) takeName(ctx context.Context, from int64) error {
	before, err := h.beat(ctx)
	switch {
	case err != nil:
		return in("write this instance's first heartbeat", err)
	case before != 0 && before != from: // both waited
		return fmt.Errorf("instance %q: %w", h.db.o.Instance, ErrNameTaken)
	}
	h.forgotten = time.Now()
	return nil
}

// startHeart goes on saying that this instance lives, and looks at the replica. Both
// go on until the background ends.
func (db *DB) startHeart(ctx, background context.Context, h *heart) error {
	db.running.Go(func() { h.run(background) })
	if db.replica == nil {
		return nil
	}
	if err := db.replica.look(ctx); isMisconfigured(err) {
		return err
	}
	db.running.Go(func() { db.replica.run(background) })
	return nil
}

func (h *heart) run(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			h.leave()
			return
		case <-tick.C:
			before, err := h.beat(ctx)
			h.tell(before != 0 && before != h.startedNs, err)
			h.forget(ctx)
		}
	}
}

// beat writes one heartbeat, and answers when the process began that wrote the one
// before, 0 if none did.
func (h *heart) beat(ctx context.Context) (startedNs int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	o := &h.db.o
	var before *int64
	if err := h.db.vital.QueryRow(ctx, beatStatement, o.Instance, h.startedNs, time.Now().UnixNano(), o.Details).Scan(&before); err != nil || before == nil {
		return 0, err
	}
	return *before, nil
}

// tell logs what has changed since the beat before.
func (h *heart) tell(doubled bool, err error) {
	log := h.db.o.Logger
	switch {
	case err != nil && !h.failing:
		log.Warn("this instance cannot say that it lives; others will take over what is its own to hand on", "instance", h.db.o.Instance, "error", err)
	case err == nil && h.failing:
		log.Info("this instance can say again that it lives", "instance", h.db.o.Instance)
	}
	h.failing = err != nil
	if doubled && !h.doubled {
		log.Error("another process runs under this instance's name; give every process a name of its own", "instance", h.db.o.Instance)
	}
	if err == nil {
		h.doubled = doubled
	}
}

// forget removes the rows of instances that are long gone.
func (h *heart) forget(ctx context.Context) {
	if time.Since(h.forgotten) < forgetEvery {
		return
	}
	h.forgotten = time.Now()
	if _, err := h.db.forgetInstances(ctx, time.Now().Add(-forgetAfter)); err != nil {
		h.db.o.Logger.Warn("the rows of instances that are gone were not removed; the next try is in an hour", "error", err)
	}
}

// forgetInstances removes the rows of instances that said nothing since a time.
func (db *DB) forgetInstances(ctx context.Context, since time.Time) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	tag, err := db.vital.Exec(ctx, forgetStatement, since.UnixNano())
	return int(tag.RowsAffected()), err
}

// leave removes this instance's row, so that others need not wait until it counts
// as gone.
func (h *heart) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), beatTimeout)
	defer cancel()
	if _, err := h.db.vital.Exec(ctx, leaveStatement, h.db.o.Instance, h.startedNs); err != nil {
		h.db.o.Logger.Warn("this instance could not sign off; it counts as gone when its heartbeat is old enough",
			"instance", h.db.o.Instance, "error", fmt.Sprint(err))
	}
}
