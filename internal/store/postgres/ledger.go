package postgres

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"millrace/internal/payment/sandbox"
)

// ledger is the sandbox provider's ledger in the database: the instances that share
// it are one bank. Who inserts a charge's record under a number first has decided.
type ledger struct{ db *DB }

var _ sandbox.Ledger = ledger{}

// SandboxLedger returns the ledger of the payment sandbox that all instances share.
func (db *DB) SandboxLedger() sandbox.Ledger { return ledger{db} }

var (
	sqlLoadLedger = &statement{"load ledger", `SELECT l.tenant_id, l.charge_key, l.n, l.at_ns, l.record
		FROM unnest($1::text[], $2::text[]) AS k (tenant_id, charge_key)
		JOIN sandbox_ledger AS l ON l.tenant_id = k.tenant_id AND l.charge_key = k.charge_key ORDER BY l.tenant_id, l.charge_key, l.n`}
	sqlAppendLedger = &statement{"append to ledger", `INSERT INTO sandbox_ledger (tenant_id, charge_key, n, at_ns, record)
		SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[])`}
)

// Load returns the records of charges. See sandbox.Ledger.
func (l ledger) Load(ctx context.Context, charges []sandbox.ChargeID) (lines []sandbox.Line, err error) {
	if len(charges) == 0 {
		return nil, nil
	}
	defer l.db.o.Metrics.timed("ledger_load", &err)()
	p := &pipeline{}
	p.read(sqlLoadLedger, func(r row) error {
		lines = append(lines, sandbox.Line{ChargeID: sandbox.ChargeID{TenantID: textOf(r[0]), Key: textOf(r[1])}, N: intOf(r[2]), At: timeOf(r[3]), Record: slices.Clone(r[4])})
		return nil
	}, texts(len(charges), func(i int) string { return charges[i].TenantID }), texts(len(charges), func(i int) string { return charges[i].Key }))
	err = l.db.holdHot(ctx, func(c *hotConn) error { return c.run(ctx, p) })
	return lines, in("read the payment sandbox's ledger", err)
}

// Append adds records in one statement, sorted, so that two who append at once wait
// for each other and never in a circle. See sandbox.Ledger.
func (l ledger) Append(ctx context.Context, lines []sandbox.Line) (err error) {
	if len(lines) == 0 {
		return nil
	}
	defer l.db.o.Metrics.timed("ledger_append", &err)()
	sorted := slices.SortedFunc(slices.Values(lines), func(a, b sandbox.Line) int {
		return cmp.Or(cmp.Compare(a.TenantID, b.TenantID), cmp.Compare(a.Key, b.Key), cmp.Compare(a.N, b.N))
	})
	n := len(sorted)
	p := &pipeline{}
	p.do(sqlAppendLedger,
		texts(n, func(i int) string { return sorted[i].TenantID }),
		texts(n, func(i int) string { return sorted[i].Key }),
		numbers(n, func(i int) int64 { return sorted[i].N }),
		numbers(n, func(i int) int64 { return nanosOf(sorted[i].At) }),
		texts(n, func(i int) string { return string(sorted[i].Record) }))
	err = l.db.holdHot(ctx, func(c *hotConn) error { return c.run(ctx, p) })
	if refusedBy(err, sqlAppendLedger, stateUniqueViolation, stateDeadlock) {
		return sandbox.ErrConflict
	}
	return in("write to the payment sandbox's ledger", err)
}

const ledgerPage = `SELECT tenant_id, charge_key, at_ns FROM sandbox_ledger
	WHERE n = 1 AND (at_ns, tenant_id, charge_key) > ($1, $2, $3) AND ($4 = '' OR tenant_id = $4)
	ORDER BY at_ns, tenant_id, charge_key LIMIT $5`

// Page lists charges by their first record. See sandbox.Ledger.
func (l ledger) Page(ctx context.Context, tenantID, cursor string, limit int) (page []sandbox.ChargeID, next string, err error) {
	after := chargeStart{}
	if cursor != "" {
		if after, err = parseLedgerCursor(cursor); err != nil {
			return nil, "", err
		}
	}
	ctx, cancel := l.db.deadline(ctx)
	defer cancel()
	rows, err := l.db.hot.Query(ctx, ledgerPage, after.atNs, storable(after.TenantID), storable(after.Key), storable(tenantID), limit)
	err = eachRow(rows, err, func(r row) error {
		last := chargeStart{sandbox.ChargeID{TenantID: textOf(r[0]), Key: textOf(r[1])}, intOf(r[2])}
		page = append(page, last.ChargeID)
		if len(page) == limit {
			next = last.cursor()
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("list the payment sandbox's ledger: %w", err)
	}
	return page, next, nil
}

// chargeStart is where a charge stands in the order in which charges began.
type chargeStart struct {
	sandbox.ChargeID
	atNs int64
}

func (s chargeStart) cursor() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(s.atNs, 10) + "\x00" + s.TenantID + "\x00" + s.Key))
}

func parseLedgerCursor(cursor string) (chargeStart, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	parts := strings.SplitN(string(b), "\x00", 3)
	if err != nil || len(parts) != 3 {
		return chargeStart{}, fmt.Errorf("%w: %.30q", sandbox.ErrBadCursor, cursor)
	}
	at, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil {
		return chargeStart{}, fmt.Errorf("%w: %.30q", sandbox.ErrBadCursor, cursor)
	}
	return chargeStart{sandbox.ChargeID{TenantID: parts[1], Key: parts[2]}, at}, nil
}
