// Package postgres is the store on a PostgreSQL server that many instances share.
//
// Pools. hot is the owner's and does all that writes, and what reads across
// tenants. fresh reads for tenants: its connections have become the read role
// (Options.ReadRole) and tell the server the tenant of the context they are used
// with (storesql.ForTenant), so that row-level security shows them no other
// tenant's rows: a second wall behind the WHERE of every statement. A third pool,
// of the same kind, is on the replica if there is one. vital has two connections
// for what must not wait behind work. Shared statements (package storesql) go
// through database/sql over the same pools.
//
// Replica. Every instance writes its heartbeat to the table instances each second
// and looks for it on the replica: the difference is how old the replica is, by one
// clock. Beyond Options.ReplicaMaxLag, or when it does not answer, the primary is
// asked instead.
//
// Time. Every statement is bounded by the server (statement_timeout, lock_timeout,
// idle_in_transaction_session_timeout) and, if the server is silent for longer, by
// the connection itself; a peer that is gone is noticed by keep-alives. A call
// whose context ends is cancelled on the server.
//
// Concurrency. Everything exported is safe for concurrent use, in one process and
// among many. Inside one transaction rows are locked in this order: orders by
// tenant and id, idempotency keys, stock by tenant and SKU.
//
// Lifecycle. Open migrates the schema if asked to, under an advisory lock, or
// refuses when it is older than this program or newer than it can serve. Two
// goroutines run until Close: the heartbeat, and the look at the replica.
package postgres
