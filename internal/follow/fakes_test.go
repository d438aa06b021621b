package follow

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// row is what is followed.
type row struct {
	Scope, Key, Value string
	Change            int64
	At                time.Time
}

var errAway = errors.New("the database is away")

// database is a Source that can be away, slow, or restored.
type database struct {
	mu       sync.Mutex
	rows     map[string]map[string]row // by scope and key
	versions map[string]int64
	epoch    string
	away     bool
	hang     map[string]bool // scopes whose Changes answer when ctx ends
	pageRows int
	most     int    // changed rows at once, though more are asked for; 0: all
	between  func() // is called between the pages of a load
	polls    int
	reads    int // of changes
}

func newDatabase() *database {
	return &database{rows: map[string]map[string]row{}, versions: map[string]int64{}, hang: map[string]bool{}, pageRows: 10}
}

// write puts rows as one change and returns its number.
func (d *database) write(scope string, values ...string) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.versions[scope]++
	if d.rows[scope] == nil {
		d.rows[scope] = map[string]row{}
	}
	for _, kv := range values {
		key, value, _ := strings.Cut(kv, "=")
		d.rows[scope][key] = row{scope, key, value, d.versions[scope], time.Now()}
	}
	return d.versions[scope]
}

func (d *database) setAway(away bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.away = away
}

// snapshot is a backup.
func (d *database) snapshot() *database {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := newDatabase()
	b.versions, b.epoch = maps.Clone(d.versions), d.epoch
	for scope, rows := range d.rows {
		b.rows[scope] = maps.Clone(rows)
	}
	return b
}

func (d *database) restore(b *database) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rows, d.versions, d.epoch = b.rows, b.versions, b.epoch

}

// all is what a complete index holds.
func (d *database) all() map[string]row {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string]row{}
	for _, rows := range d.rows {
		for _, r := range rows {
			all[r.Scope+"/"+r.Key] = r
		}
	}
	return all
}

func (d *database) Versions(context.Context) (map[string]int64, string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.polls++
	if d.away {
		return nil, "", errAway
	}
	return maps.Clone(d.versions), d.epoch, nil
}

func (d *database) Load(ctx context.Context, each func([]row) error) error {
	keys := slices.Sorted(maps.Keys(d.all()))
	for page := range slices.Chunk(keys, d.pageRows) {
		d.mu.Lock()
		away, between := d.away, d.between
		d.mu.Unlock()
		if away {
			return errAway
		}
		now := d.all()
		var rows []row
		for _, key := range page {
			rows = append(rows, now[key])
		}
		if err := each(rows); err != nil {
			return err
		}
		if between != nil {
			between()
		}
	}
	return ctx.Err()
}

func (d *database) Changes(ctx context.Context, scope string, after int64, limit int) ([]row, bool, error) {
	d.mu.Lock()
	d.reads++
	hang, away := d.hang[scope], d.away
	if d.most > 0 {
		limit = min(limit, d.most)
	}
	var rows []row
	for _, r := range d.rows[scope] {
		if r.Change > after {
			rows = append(rows, r)
		}
	}
	d.mu.Unlock()
	if away {
		return nil, false, errAway
	}
	if hang {
		<-ctx.Done()
		return nil, false, ctx.Err()
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Or(cmp.Compare(a.Change, b.Change), cmp.Compare(a.Key, b.Key)) })
	if len(rows) <= limit {
		return rows, false, nil
	}
	for limit < len(rows) && rows[limit].Change == rows[limit-1].Change {
		limit++
	}
	return rows[:limit], limit < len(rows), nil
}

// memory is an index.
type memory struct {
	mu      sync.Mutex
	rows    map[string]row
	next    map[string]row // is being loaded
	poison  string         // the value that makes it panic
	applied int            // rows given to Apply
}

func put(to map[string]row, rows []row) {
	for _, r := range rows {
		if old, there := to[r.Scope+"/"+r.Key]; !there || old.Change < r.Change {
			to[r.Scope+"/"+r.Key] = r
		}
	}
}

func (m *memory) judge(rows []row) {
	if m.poison != "" && slices.ContainsFunc(rows, func(r row) bool { return r.Value == m.poison }) {
		panic("poisoned by " + m.poison)
	}
}

func (m *memory) load(feed func(add func([]row)) error) error {
	m.mu.Lock()
	m.next = map[string]row{}
	m.mu.Unlock()
	err := feed(func(rows []row) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.judge(rows)
		put(m.next, rows)
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.rows = m.next
	}
	m.next = nil
	return err
}

func (m *memory) apply(rows []row) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.judge(rows)
	m.applied += len(rows)
	put(m.rows, rows)
	if m.next != nil {
		put(m.next, rows)
	}
}

func (m *memory) setPoison(value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.poison = value
}

func (m *memory) all() map[string]row {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.rows)
}

func (m *memory) value(key string) string { return m.all()[key].Value }

// network connects instances.
type network struct {
	mu       sync.Mutex
	hearers  map[int]func([]byte)
	next     int
	lost     bool // messages get lost
	deaf     bool // nobody can listen
	broken   bool // sending fails
	hanging  bool // sending takes until ctx ends
	twice    bool // messages come twice, the second time late
	messages int
}

func newNetwork() *network { return &network{hearers: map[int]func([]byte){}} }

func (n *network) set(change func(*network)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(n)
}

func (n *network) Send(ctx context.Context, data []byte) error {
	n.mu.Lock()
	n.messages++
	lost, broken, hanging, twice := n.lost, n.broken, n.hanging, n.twice
	hearers := slices.Collect(maps.Values(n.hearers))
	n.mu.Unlock()
	switch {
	case hanging:
		<-ctx.Done()
		return ctx.Err()
	case broken:
		return errors.New("the broker is away")
	case lost:
		return nil
	}
	for _, h := range hearers {
		h(data)
		if twice {
			time.AfterFunc(50*time.Millisecond, func() { h(data) })
		}
	}
	return nil
}

func (n *network) Listen(_ context.Context, h func([]byte)) (func(), error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.deaf {
		return nil, errors.New("the broker is away")
	}
	id := n.next
	n.next++
	n.hearers[id] = h
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.hearers, id)
	}, nil
}

// journal is a log that is read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// instance is a Follower with its index.
type instance struct {
	*Follower[row]
	t        *testing.T
	db       *database
	index    *memory
	log      *journal
	registry *prometheus.Registry
	stop     context.CancelFunc
	done     chan error
}

// start runs an instance in a bubble of synctest; the test's end stops it.
func start(t *testing.T, name string, db *database, peers Peers, change func(*Options[row])) *instance {
	t.Helper()
	i := &instance{t: t, db: db, index: &memory{rows: map[string]row{}}, log: &journal{}, registry: prometheus.NewRegistry(), done: make(chan error, 1)}
	o := Options[row]{
		Name: "test", Source: db, Peers: peers, Instance: name, Load: i.index.load, Apply: i.index.apply,
		Unreadable: func(r *row) bool { return r.Value == "unreadable" }, Called: func(r *row) string { return r.Scope + "/" + r.Key },
		Change: func(r *row) int64 { return r.Change }, At: func(r *row) time.Time { return r.At },
		Metrics: NewMetrics(i.registry), Logger: slog.New(slog.NewTextHandler(i.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&o)
	}
	var err error
	if i.Follower, err = New(o); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, i.stop = context.WithCancel(t.Context())
	go func() { i.done <- i.Run(ctx) }()
	return i
}

// Loaded says whether the first load is over.
func (i *instance) Loaded() bool { return i.loaded.Load() }

// end stops the instance and waits for it.
func (i *instance) end() {
	i.t.Helper()
	i.stop()
	if err := <-i.done; err != nil {
		i.t.Errorf("Run: %v", err)
	}
}

// write writes as a service does: to the database, to the own index, to the others.
func (i *instance) write(scope string, values ...string) {
	change := i.db.write(scope, values...)
	all := i.db.all()
	var rows []row
	for _, kv := range values {
		key, _, _ := strings.Cut(kv, "=")
		rows = append(rows, all[scope+"/"+key])
	}
	i.index.apply(rows)
	i.Wrote(scope, change)
}

// metric returns a metric's value, of a histogram how many it has observed.
func (i *instance) metric(name string, labels ...string) float64 {
	i.t.Helper()
	families, err := i.registry.Gather()
	if err != nil {
		i.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "millrace_index_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetValue())
			}
			if !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(has, l) }) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	i.t.Fatalf("there is no metric %s%v", name, labels)
	return 0
}

// pass lets time pass in a bubble, and then everything that it started come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
