// Package audit is the record of what people and programs with power did: who
// changed what, when, and what it was before and after. It is append-only: there
// is no way to change or remove an entry through this program.
//
// A change that a store makes carries its Actor into the store method, which
// writes the entry in the change's own transaction: there is no change without
// its entry and no entry without its change. What has no transaction there is
// recorded with Log.Record, before it is done. A change that changes nothing has
// no entry. Nothing runs in the background.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// Actor is who does something. It travels from the edge with a change, so that
// the store writes the entry in the change's own transaction.
type Actor struct {
	// Subject is the authenticated subject, or the name of a part of the system.
	Subject string
	// Method says how it was authenticated: "jwt", "key", "operator" or "system".
	Method string
	// RequestID ties the entry to the log lines of its request; empty outside one.
	RequestID string
}

// Entry is one administrative action.
type Entry struct {
	// ID is a UUIDv7 of At (see NewID); entries are listed by it, newest first.
	ID       string
	TenantID string
	At       time.Time
	Actor    Actor
	// Action is what was done, such as "product.put" or "key.revoke".
	Action string
	// Object names what it was done to, such as "product/tee-black-m".
	Object string
	// Before and After are JSON, nil where there was or is nothing. They never hold
	// a secret.
	Before, After json.RawMessage
}

// Query asks for a tenant's entries, newest first.
type Query struct {
	TenantID string
	// Action, Object and Subject restrict to exact values; empty means all.
	Action, Object, Subject string
	// From and To bound the time: [From, To). Zero means unbounded.
	From, To time.Time
	// Limit is the page size, at least 1. Cursor continues after a page's Next.
	Limit  int
	Cursor string
}

// MaxScan is how many entries a page with a filter on action or subject is
// searched for in.
const MaxScan = 20_000

// Page is one page of entries; Next is empty when nothing follows.
type Page struct {
	Entries []Entry
	Next    string
}

// Store keeps entries. Most are written by the store methods that make the
// change, in the same transaction. It is safe for concurrent use.
type Store interface {
	// Record writes entries of changes that have no transaction in this store, in
	// one durable transaction. An entry whose (tenant, id) is there is left.
	Record(ctx context.Context, entries []Entry) error
	// Entries returns one page; ErrBadCursor if the cursor is not one it gave. A page
	// of one action or subject is of at most MaxScan entries looked at, so that it
	// ends soon: it can be short, or empty, with Next set.
	Entries(ctx context.Context, q Query) (Page, error)
}

// ErrBadCursor says that a cursor is not one this server gave.
var ErrBadCursor = errors.New("cursor is not one this server gave")
