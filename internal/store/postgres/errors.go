package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/event"
	"millrace/internal/order"
)

// ErrClosed is the answer of a store that was closed.
var ErrClosed = errors.New("the store is closed")

// SQLSTATEs that are told apart. See
// https://www.postgresql.org/docs/current/errcodes-appendix.html.
const (
	stateUniqueViolation      = "23505"
	stateSerializationFailure = "40001"
	stateDeadlock             = "40P01"
	stateLockNotAvailable     = "55P03"
	stateQueryCanceled        = "57014"
	stateInsufficientRights   = "42501"
	stateUndefinedTable       = "42P01"
	stateUndefinedObject      = "42704"
	stateIdleInTransaction    = "25P03"
)

// sqlState returns the SQLSTATE of an error that the server answered with, empty
// if it did not.
func sqlState(err error) string {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return ""
	}
	return e.Code
}

// isData says whether the server refused what is in the rows, so that trying the
// same again cannot help: SQLSTATE class 22, data exception, and 23, integrity
// constraint violation, and what is too large for a row (54000).
func isData(err error) bool {
	state := sqlState(err)
	return len(state) == 5 && (state[:2] == "22" || state[:2] == "23") || state == "54000"
}

// dataError marks an error of an append of events that comes from what is in a row.
func dataError(err error) error {
	if isData(err) {
		return fmt.Errorf("%w: %w", event.ErrData, err)
	}
	return err
}

// orderDataError is dataError for orders.
func orderDataError(err error) error {
	if isData(err) {
		return fmt.Errorf("%w: %w", order.ErrData, err)
	}
	return err
}

// isConflict says whether a transaction lost against another, or was ended because
// this process was paused in the midst of it, so that the whole of it may be run
// again.
func isConflict(err error) bool {
	switch sqlState(err) {
	case stateSerializationFailure, stateDeadlock, stateIdleInTransaction:
		return true
	}
	return false
}

// unavailable says whether an error is of the connection or of a server that goes
// down or comes up, so that what was asked for has a known or unknown outcome but
// was not refused: trying again later may help.
func unavailable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	state := sqlState(err)
	if len(state) == 5 {
		// 08 connection, 53 resources, 57P0x shutdown and recovery, 58 system.
		return state[:2] == "08" || state[:2] == "53" || state[:3] == "57P" || state[:2] == "58"
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, pgconn.ErrConnClosed)
}

// reason names the kind of a failure, for the metrics.
func reason(err error) string {
	var position *event.PositionError
	switch {
	case err == nil:
		return "none"
	case isData(err), errors.Is(err, event.ErrData), errors.Is(err, order.ErrData):
		return "data"
	case errors.As(err, &position):
		return "position"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case isConflict(err):
		return "conflict"
	case unavailable(err):
		return "unavailable"
	}
	switch sqlState(err) {
	case stateQueryCanceled, stateLockNotAvailable:
		return "timeout"
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "timeout"
	}
	return "other"
}

func noRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

// in names what was being done when err happened; nil stays nil.
func in(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
