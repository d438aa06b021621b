package httpapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/internal/auth"
	"millrace/internal/deadletter"
	"millrace/internal/event"
	"millrace/internal/event/hook"
	"millrace/internal/event/scan"
)

// problemOf turns an error of the domain into a problem. What it does not know
// is a failure of ours: the caller is told nothing of it, the log everything.
func problemOf(ctx context.Context, err error) *problem {
	var (
		p           *problem
		unavailable *event.Unavailable
		syntax      *scan.SyntaxError
		delivery    *hook.Error
		rejected    *deadletter.RejectedError
		invalid     *auth.InvalidError
	)
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &unavailable):
		return unavailableProblem(unavailable)
	case errors.As(err, &syntax):
		return syntaxProblem(syntax)
	case errors.As(err, &delivery):
		return hookProblem(delivery)
	case errors.As(err, &rejected):
		p = newProblem(slugNoValidEvents, "the event was refused again, and stays a dead letter: "+rejected.Reason)
		return p
	case errors.As(err, &invalid):
		p = newProblem(slugInvalidBody, "body."+invalid.Field+": "+invalid.Detail)
		p.Errors = []parameterError{{Location: "body." + invalid.Field, Message: invalid.Detail}}
		return p
	case errors.Is(err, event.ErrUnknownHook):
		return newProblem(slugHookUnknown, "no webhook source of that name is configured; configure it, or mend the address")
	case errors.Is(err, event.ErrNotFound):
		return newProblem(slugNotFound, "the tenant has no event with that id; an event is found about a second after it was accepted")
	case errors.Is(err, deadletter.ErrNotFound):
		return newProblem(slugNotFound, "the tenant has no dead letter with that id; it may have been redriven or deleted")
	case errors.Is(err, auth.ErrKeyNotFound):
		return newProblem(slugNotFound, "the tenant has no API key with that id; GET /keys lists them")
	case errors.Is(err, deadletter.ErrTruncated):
		return newProblem(slugNotRedrivable, deadletter.ErrTruncated.Error())
	case errors.Is(err, event.ErrBadCursor), errors.Is(err, deadletter.ErrBadCursor):
		return badCursor()
	}
	if p := shopProblem(err); p != nil {
		return p
	}
	return failure(ctx, err)
}

func badCursor() *problem {
	return invalidParameter("cursor", "is not one this server gave; begin again without a cursor")
}

// failure is the problem of an error that nobody expected.
func failure(ctx context.Context, err error) *problem {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return newProblem(slugQueryTimeout, "the store did not answer in time; ask for less, or try again after retryAfter seconds").
			after(retryUnavailable).because(err)
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return newProblem(slugClientGone, "the client closed the connection").because(err)
	case isAway(err):
		return newProblem(slugStoreUnavailable, "the database cannot be reached; nothing was changed unless this was a change whose answer was lost; try again after retryAfter seconds").
			after(retryUnavailable).because(err)
	}
	return newProblem(slugInternal, "the server failed on this request; the failure is in its log under this instance").because(err)
}

// isAway says whether a store told that it cannot be reached.
func isAway(err error) bool {
	var away interface{ Unavailable() bool }
	return errors.As(err, &away) && away.Unavailable()
}

func unavailableProblem(u *event.Unavailable) *problem {
	return notNow(u.Reason, u.Detail, u.RetryAfter, u.Unknown, u.Err)
}

// notNow is the problem of what the domain cannot do now, for a reason of the
// table.
func notNow(slug, detail string, wait time.Duration, unknown bool, cause error) *problem {
	if unknown {
		slug = slugOutcomeUnknown
	}
	if kind, ok := lookupKind(slug); !ok || kind.status != 503 {
		slug = slugOverloaded
	}
	if wait <= 0 {
		wait = time.Second
	}
	return newProblem(slug, detail).after(wait).because(cause)
}

func syntaxProblem(e *scan.SyntaxError) *problem {
	slug := slugMalformedBody
	switch e.Code {
	case scan.WrongShape:
		slug = slugWrongShape
	case scan.Empty:
		slug = slugEmptyBatch
	case scan.TooManyEvents:
		slug = slugTooManyEvents
	}
	return newProblem(slug, fmt.Sprintf("at byte %d: %s", e.Offset, e.Reason))
}

func hookProblem(e *hook.Error) *problem {
	slug := slugHookUnverified
	switch e.Code {
	case hook.BadBody, hook.MalformedHeader:
		slug = slugWebhookPayload
	}
	return newProblem(slug, e.Reason)
}
