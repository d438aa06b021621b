package sqlite

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/catalog"
	"millrace/internal/deadletter"
	"millrace/internal/fulfilment"
	"millrace/internal/inventory"
	"millrace/internal/order"
	"millrace/internal/outbox"
	storesql "millrace/internal/store/sql"
)

// question is a read of the store that finds nothing.
type question struct {
	name string
	ask  func(ctx context.Context, db *DB) error
}

// TestWhoListsIsNotInTheWayOfWhoNeedsOneRow takes all connections of one pool and
// asks what the other is for.
func TestWhoListsIsNotInTheWayOfWhoNeedsOneRow(t *testing.T) {
	single := []question{
		{"an order", func(ctx context.Context, db *DB) error { return second(db.Orders().Order(ctx, "demo", "x")) }},
		{"the outbox", func(ctx context.Context, db *DB) error {
			return second(db.Outbox().Pending(ctx, outbox.LaneBus, 0, 10))
		}},
		{"orders too far ahead", func(ctx context.Context, db *DB) error {
			return second(db.Orders().PullForward(ctx, time.Now(), time.Now()))
		}},
		{"old keys", func(ctx context.Context, db *DB) error { return second(db.Orders().DropKeys(ctx, time.Now(), 1)) }},
		{"a product", func(ctx context.Context, db *DB) error { return second(db.Catalog().Product(ctx, "demo", "x")) }},
		{"a level", func(ctx context.Context, db *DB) error { return second(db.Inventory().Level(ctx, "demo", "x")) }},
		{"an API key", func(ctx context.Context, db *DB) error { return second(db.Keys().ByID(ctx, "x")) }},
		{"a dead letter", func(ctx context.Context, db *DB) error { return second(db.DeadLetters().Get(ctx, "demo", "x")) }},
		{"a webhook endpoint", func(ctx context.Context, db *DB) error { return second(db.Webhooks().Endpoint(ctx, "demo", "x")) }},
		{"the endpoints of an event", func(ctx context.Context, db *DB) error { return second(db.Webhooks().Endpoints(ctx, "demo")) }},
		{"due deliveries", func(ctx context.Context, db *DB) error {
			_, _, err := db.Webhooks().Backlog(ctx, time.Now(), fulfilment.EndpointRef{}, 1)
			return err
		}},
		{"whether it lives", func(ctx context.Context, db *DB) error { return db.Ping(ctx) }},
	}
	lists := []question{
		{"orders", func(ctx context.Context, db *DB) error {
			return second(db.Orders().Orders(ctx, order.Query{TenantID: "demo", Limit: 10}))
		}},
		{"history", func(ctx context.Context, db *DB) error { return second(db.Orders().History(ctx, "demo", "x")) }},
		{"numbers of orders", func(ctx context.Context, db *DB) error { return second(db.Orders().CountByStatus(ctx)) }},
		{"the depth of the outbox", func(ctx context.Context, db *DB) error {
			_, _, err := db.Outbox().Depth(ctx, outbox.LaneBus)
			return err
		}},
		{"products", func(ctx context.Context, db *DB) error {
			return second(db.Catalog().Products(ctx, catalog.Query{TenantID: "demo", Limit: 10}))
		}},
		{"prices", func(ctx context.Context, db *DB) error { return second(db.Catalog().Prices(ctx, "demo", "x", 10)) }},
		{"stock", func(ctx context.Context, db *DB) error {
			return second(db.Inventory().Levels(ctx, inventory.Query{TenantID: "demo", Limit: 10}))
		}},
		{"API keys", func(ctx context.Context, db *DB) error { return second(db.Keys().List(ctx, "demo")) }},
		{"dead letters", func(ctx context.Context, db *DB) error {
			_, _, err := db.DeadLetters().List(ctx, deadletter.Filter{TenantID: "demo"}, 10, "")
			return err
		}},
		{"numbers of dead letters", func(ctx context.Context, db *DB) error { return second(db.DeadLetters().Count(ctx)) }},
		{"the audit log", func(ctx context.Context, db *DB) error {
			return second(db.Audit().Entries(ctx, audit.Query{TenantID: "demo", Subject: "ann", Limit: 10}))
		}},
		{"deliveries", func(ctx context.Context, db *DB) error {
			_, _, err := db.Webhooks().Deliveries(ctx, "demo", "", 10, "")
			return err
		}},
		{"numbers of deliveries", func(ctx context.Context, db *DB) error {
			_, _, err := db.Webhooks().Due(ctx, time.Now(), time.Now())
			return err
		}},
	}
	db := open(t, t.TempDir())
	for _, c := range []struct {
		name      string
		taken     *stdsql.DB
		conns     int
		questions []question
	}{
		{"while others list", db.lists, mainListers, single},
		{"while others read single rows", db.read, mainReaders, lists},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range c.conns {
				conn, err := c.taken.Conn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // of them all: a red test ends too
			defer cancel()
			for _, q := range c.questions {
				err := q.ask(ctx, db)
				for _, none := range []error{order.ErrNotFound, catalog.ErrNotFound, inventory.ErrNotFound, auth.ErrKeyNotFound, deadletter.ErrNotFound, fulfilment.ErrNotFound} {
					if errors.Is(err, none) {
						err = nil
					}
				}
				if err != nil {
					t.Errorf("%s: %v", q.name, err)
				}
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

// It asks SQLite how it would go about it.
func TestThePartOfTheAuditLogThatAPageLooksAtIsARangeOfAnIndex(t *testing.T) {
	db := open(t, t.TempDir())
	const tenant = "SEARCH audit_log USING INDEX sqlite_autoindex_audit_log_1 (tenant_id=? AND id>? AND id<?)"
	const object = "SEARCH audit_log USING INDEX audit_log_by_object (tenant_id=? AND (object,id)>(?,?) AND (object,id)<(?,?))"
	for name, want := range map[string]string{
		"audit: list":           tenant,
		"audit: list of object": object,
		"audit: last of list":   "SEARCH audit_log USING COVERING INDEX sqlite_autoindex_audit_log_1 (tenant_id=? AND id>? AND id<?)",
		"audit: last of object": "SEARCH audit_log USING COVERING INDEX audit_log_by_object (tenant_id=? AND object=? AND id>? AND id<?)",
	} {
		statement := storesql.Statements(storesql.SQLite)[name]
		args := make([]any, 9)
		for strings.Count(statement, fmt.Sprint("$", len(args))) == 0 {
			args = args[1:]
		}
		if diff := cmp.Diff(want, planOf(t, db, statement, args...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
