// Package sql has the stores whose statements are the same on every SQL database
// Millrace runs on: dead letters, API keys, products, places, stock and the audit log.
// The adapters of each database hand it their connections.
//
// Conventions of a shared statement. Parameters are $1, $2, … in order of first
// appearance, which SQLite and PostgreSQL both understand. Times are arguments,
// never the database's clock, and are kept as Unix nanoseconds in 64-bit integers,
// 0 meaning none. Lists are JSON as text. Every statement is a constant, or for
// many rows made of constants alone, and listed in Statements, so that a test can
// prepare them all on each database.
//
// A transaction that changes what it has read names in its statement the version
// that it read, and begins again when that changed no row: it is right whatever
// isolation the database gives. Where there are several writers it also locks the
// rows first, so that they take turns; a transaction that the database ends for a
// deadlock or a conflict is run again.
//
// A tenant's rows are read with the tenant in the context (ForTenant), for databases
// that check it too.
//
// Concurrency: everything exported is safe for concurrent use. A store writes
// through one pool, reads single rows through another and lists and counts through
// a third, see Pools. SQLite has one writer, and giving it one
// connection makes callers queue in Go instead of polling for the lock; and who
// lists much is not in the way of who needs one row.
package sql

import (
	stdsql "database/sql"
	"errors"
	"fmt"
	"maps"
	"math"
	"time"
)

// Statements returns every shared statement by its name, as it is for a dialect.
func Statements(d Dialect) map[string]string {
	all := map[string]string{
		"dead letter: add":            addLetter,
		"dead letter: list":           listLetters,
		"dead letter: get":            getLetter,
		"dead letter: delete":         deleteLetter,
		"dead letter: record attempt": recordAttempt,
		"dead letter: count":          countLetters,
		"dead letter: drop":           dropLetters,
		"API key: insert":             insertKey,
		"API key: by id":              keyByID,
		"API key: list":               listKeys,
		"API key: revoke":             revokeKey,
		"API key: of tenant":          keyOfTenant,
		"product: get":                getProduct,
		"product: list":               listProducts,
		"product: list of category":   listProductsOfCategory,
		"product: prices":             listPrices,
		"product: get many":           getProducts.text(2),
		"product: get many by slug":   getProductsBySlug.text(2),
		"product: put":                putProducts.text(2),
		"product: add prices":         addPrices.text(2),
		"product: load":               loadProducts,
		"product: changes":            changesOfProducts,
		"place: get many":             getPlaces.text(2),
		"place: put":                  putPlaces.text(2),
		"place: load":                 loadPlaces,
		"place: changes":              changesOfPlaces,
		"version: list":               listVersions(d),
		"version: add":                addVersions.text(2),
		"version: hold":               d.forUpdate(getVersions.text(2)),
		"version: put":                putVersions.text(2),
		"stock: get":                  getLevel,
		"stock: get to change":        d.forUpdate(getLevel),
		"stock: lock":                 d.forUpdate(lockLevels.text(2)),
		"stock: list":                 listLevels,
		"stock: get many":             getLevels.text(2),
		"stock: put":                  putLevels.text(2),
		"stock: claim key":            claimStockKey,
		"stock: key":                  stockKey,
		"stock: get import lines":     getImportLines.text(2),
		"stock: add import lines":     addImportLines.text(2),
		"audit: add":                  addAudit.text(2),
		"audit: list":                 listAudit,
		"audit: list of object":       listAuditOfObject,
		"audit: last of list":         lastOfAudit,
		"audit: last of object":       lastOfAuditOfObject,
		"lease: acquire":              acquireLease,
		"lease: get":                  getLease,
		"lease: release":              releaseLease,
		"lease: list":                 listLeases,
	}
	maps.Copy(all, webhookStatements(d))
	return all
}

// nanos returns t in Unix nanoseconds, 0 if t is zero.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// timeOf is the inverse of nanos.
func timeOf(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// bound returns t in Unix nanoseconds, otherwise if t is zero; a time beyond what
// 64 bits can hold becomes the nearest they can.
func bound(t time.Time, otherwise int64) int64 {
	switch {
	case t.IsZero():
		return otherwise
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// one says whether a statement changed a row.
func one(r stdsql.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n > 0, err
}

// in names what was being done when err happened; nil stays nil.
func in(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func noRows(err error) bool { return errors.Is(err, stdsql.ErrNoRows) }
