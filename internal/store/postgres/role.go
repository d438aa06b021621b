package postgres

import (
	"context"
	stdsql "database/sql"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// grantReader creates the role that reads for tenants if it is not there, lets the
// owner become it, and lets it read what has row-level security. All of it may be
// done already, here or by an administrator.
func grantReader(ctx context.Context, conn *stdsql.Conn, role string) error {
	quoted := pgx.Identifier{role}.Sanitize()
	var owner, schema string
	if err := conn.QueryRowContext(ctx, `SELECT current_user, current_schema()`).Scan(&owner, &schema); err != nil {
		return in("look up the owner of the schema", err)
	}
	steps := []struct {
		done  string // a query that says whether it is
		needs string
	}{
		{`SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)`, `CREATE ROLE ` + quoted + ` NOLOGIN`},
		// From version 16 on a member need not be one who can become the role.
		{`SELECT pg_has_role(current_user, $1, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)`, `GRANT ` + quoted + ` TO ` + pgx.Identifier{owner}.Sanitize()},
		{`SELECT has_schema_privilege($1, current_schema(), 'USAGE')`, `GRANT USAGE ON SCHEMA ` + pgx.Identifier{schema}.Sanitize() + ` TO ` + quoted},
	}
	var missing []string
	for _, s := range steps {
		if done, err := isDone(ctx, conn, s.done, role); err != nil {
			return err
		} else if done {
			continue
		}
		if len(missing) == 0 {
			_, err := conn.ExecContext(ctx, s.needs)
			if err == nil {
				continue
			}
			// Roles are the cluster's: another database's migration may have been faster.
			if done, e := isDone(ctx, conn, s.done, role); e == nil && done {
				continue
			}
			if sqlState(err) != stateInsufficientRights {
				return fmt.Errorf("%s: %w", s.needs, err)
			}
		}
		missing = append(missing, s.needs+";")
	}
	if len(missing) > 0 {
		return fmt.Errorf("the user %s may not set up the role %s, which reads for tenants; have an administrator run in this database, and try again: %s",
			owner, role, strings.Join(missing, " "))
	}
	return grantTables(ctx, conn, role, quoted)
}

// isDone asks whether a step is done; what is about a role that is not there is not.
func isDone(ctx context.Context, conn *stdsql.Conn, query, role string) (done bool, err error) {
	err = conn.QueryRowContext(ctx, query, role).Scan(&done)
	if err != nil && sqlState(err) != stateUndefinedObject {
		return false, fmt.Errorf("look up the role %s: %w", role, err)
	}
	return done, nil
}

// grantTables lets the role read every table that row-level security keeps apart,
// and what has nobody's rows and is read on a replica.
// Partitions are read through their parents, whose rights and policies count.
//
// Only what is missing is granted: instances start side by side, and a grant fails
// when another one changes the table at that moment, by making a partition of it.
// That is tried again.
func grantTables(ctx context.Context, conn *stdsql.Conn, role, quoted string) error {
	for tries := 1; ; tries++ {
		err := grantMissing(ctx, conn, role, quoted)
		if sqlState(err) != stateInternalError || tries == maxGrantTries {
			return err
		}
	}
}

// maxGrantTries bounds how often rights are granted again.
const maxGrantTries = 5

// stateInternalError is what a concurrent change of one table's rights is told as.
const stateInternalError = "XX000"

func grantMissing(ctx context.Context, conn *stdsql.Conn, role, quoted string) error {
	var tables stdsql.NullString
	err := conn.QueryRowContext(ctx, `SELECT string_agg(c.oid::regclass::text, ', ' ORDER BY c.relname) FROM pg_class c
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND (c.relrowsecurity OR c.relname IN ('event_batches', 'instances'))
  AND NOT has_table_privilege($1, c.oid, 'SELECT')`, role).Scan(&tables)
	if err != nil || tables.String == "" {
		return in("look up the tables of tenants", err)
	}
	if _, err := conn.ExecContext(ctx, `GRANT SELECT ON `+tables.String+` TO `+quoted); err != nil {
		return fmt.Errorf("let the role %s read: %w", quoted, err)
	}
	return nil
}

// checkReader says whether the read role can read, and only what it may.
func (db *DB) checkReader(ctx context.Context) error {
	var bound bool
	if err := db.fresh.QueryRow(ctx, `SELECT row_security_active('orders')`).Scan(&bound); err != nil {
		return fmt.Errorf("connect to PostgreSQL as the role %s, which reads for tenants: %w", db.o.ReadRole, err)
	}
	if !bound {
		return fmt.Errorf("the role %s, which reads for tenants, is not bound by row-level security: it is a superuser, has BYPASSRLS, or has the rights of the tables' owner; "+
			"name another role, or run `millrace doctor`", db.o.ReadRole)
	}
	return nil
}
