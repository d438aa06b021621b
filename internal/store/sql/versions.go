package sql

import (
	"context"
	"slices"
)

// Topics that have versions: what is read from memory elsewhere. They are in rows.
const (
	catalogTopic = "catalog"
	placesTopic  = "places"
)

// listVersions returns the epoch of the database, with no tenant, and the versions of a
// topic, in one statement so that they are of one database. It leaves out who was asked
// for and never changed.
func listVersions(d Dialect) string {
	return `SELECT '' AS tenant_id, 0 AS version, ` + d.epoch() + ` AS epoch
UNION ALL SELECT tenant_id, version, '' FROM read_versions WHERE topic = $1 AND version > 0`
}

var (
	addVersions = manyRows{head: `INSERT INTO read_versions (tenant_id, topic, version) VALUES `, width: 3,
		tail: ` ON CONFLICT (tenant_id, topic) DO NOTHING`}

	getVersions = manyRows{head: `SELECT tenant_id, version FROM read_versions WHERE (tenant_id, topic) IN (VALUES `, width: 2,
		tail: `) ORDER BY tenant_id`}

	// putVersions raises a version only if it is still the one before.
	putVersions = manyRows{head: `INSERT INTO read_versions (tenant_id, topic, version) VALUES `, width: 3,
		tail: ` ON CONFLICT (tenant_id, topic) DO UPDATE SET version = excluded.version WHERE read_versions.version = excluded.version - 1`}
)

// versions are those of one topic that a transaction holds until its end, so that
// what it changes becomes visible in the order of the versions.
type versions struct {
	topic  string
	before map[string]int64 // by tenant
	raised []string         // tenants, in the order in which they first changed
}

// holdVersions locks the versions of tenants, which need not be there yet. They are
// the first thing that a transaction locks, and locked in the order of tenants: two
// transactions wait for each other, and never in a circle.
func (p *prepared) holdVersions(ctx context.Context, topic string, tenants []string) (*versions, error) {
	tenants = slices.Compact(slices.Sorted(slices.Values(tenants)))
	get := getVersions
	if p.tx.dialect.locksRows() {
		get.tail = p.tx.dialect.forUpdate(get.tail)
		var missing []any
		for _, tenantID := range tenants {
			missing = append(missing, tenantID, topic, 0)
		}
		if _, err := p.exec(ctx, addVersions, missing); err != nil {
			return nil, in("add versions", err)
		}
	}
	var args []any
	for _, tenantID := range tenants {
		args = append(args, tenantID, topic)
	}
	v := &versions{topic: topic, before: make(map[string]int64, len(tenants))}
	err := p.each(ctx, get, args, func(row interface{ Scan(...any) error }) error {
		var tenantID string
		var version int64
		err := row.Scan(&tenantID, &version)
		v.before[tenantID] = version
		return err
	})
	return v, in("hold versions", err)
}

// next is the version that a change of a tenant's rows gets, the same for all of
// them.
func (v *versions) next(tenantID string) int64 {
	if !slices.Contains(v.raised, tenantID) {
		v.raised = append(v.raised, tenantID)
	}
	return v.before[tenantID] + 1
}

// raise writes the versions that next has given.
func (v *versions) raise(ctx context.Context, p *prepared) error {
	slices.Sort(v.raised)
	args := make([]any, 0, len(v.raised)*putVersions.width)
	for _, tenantID := range v.raised {
		args = append(args, tenantID, v.topic, v.before[tenantID]+1)
	}
	changed, err := p.exec(ctx, putVersions, args)
	if err == nil && changed != len(v.raised) {
		err = errRaced
	}
	return in("raise versions", err)
}

// readVersions returns the versions of a topic by tenant, and the epoch of the database
// that they are of.
func readVersions(ctx context.Context, on Pools, topic string) (all map[string]int64, epoch string, err error) {
	rows, err := on.AllRead.QueryContext(ctx, listVersions(on.Dialect), topic)
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	all = map[string]int64{}
	for rows.Next() {
		var tenantID, of string
		var version int64
		if err := rows.Scan(&tenantID, &version, &of); err != nil {
			return nil, "", err
		}
		if of != "" {
			epoch = of
			continue
		}
		all[tenantID] = version
	}
	return all, epoch, rows.Err()
}
