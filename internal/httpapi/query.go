package httpapi

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// params are an operation's query parameters. Embedded in an operation's input
// it takes them as they came, so that this package can say exactly what is wrong.
type params struct {
	values url.Values
	err    error
	header http.Header
}

// Resolve takes the query and the header; huma calls it.
func (p *params) Resolve(ctx huma.Context) []error {
	r, _ := humago.Unwrap(ctx)
	p.header = r.Header
	u := ctx.URL()
	p.values, p.err = url.ParseQuery(u.RawQuery)
	return nil
}

// precondition reads what a change says of the version it means. What huma reads of a
// header is its first line.
func (p *params) precondition() (precondition, error) {
	return readPrecondition(p.header["If-Match"], p.header["If-None-Match"])
}

// reader reads parameters and keeps everything that is wrong with them.
func (p *params) reader() *paramReader {
	q := &paramReader{values: p.values}
	if p.err != nil {
		q.problem = newProblem(slugInvalidParameter, "the query cannot be read: "+p.err.Error()+"; percent-encode the values")
	}
	return q
}

// paramReader reads query parameters one by one. Its methods return zero values
// for what is wrong; ask err at the end.
type paramReader struct {
	values  url.Values
	known   []string
	errs    []parameterError
	problem *problem
}

func invalidParameter(name, message string) *problem {
	p := newProblem(slugInvalidParameter, `the query parameter "`+name+`" `+message)
	p.Errors = []parameterError{{Location: "query." + name, Message: message}}
	return p
}

func (q *paramReader) wrong(name, format string, args ...any) {
	q.errs = append(q.errs, parameterError{Location: "query." + name, Message: fmt.Sprintf(format, args...)})
}

// take returns a parameter's value, empty if it is absent or empty.
func (q *paramReader) take(name string) string {
	q.known = append(q.known, name)
	list := q.values[name]
	if len(list) == 0 {
		return ""
	}
	if len(list) > 1 {
		q.wrong(name, "is given %d times; give it once", len(list))
		return ""
	}
	return list[0]
}

// text reads a short text.
func (q *paramReader) text(name string, maxBytes int) string {
	v := q.take(name)
	if len(v) > maxBytes {
		q.wrong(name, "has %d bytes; use at most %d", len(v), maxBytes)
		return ""
	}
	if !utf8.ValidString(v) || strings.ContainsRune(v, 0) {
		q.wrong(name, "is not text in UTF-8")
		return ""
	}
	return v
}

// oneOf reads a word from a list.
func (q *paramReader) oneOf(name string, words ...string) string {
	v := q.take(name)
	if v != "" && !slices.Contains(words, v) {
		q.wrong(name, "is %q; use one of %s", clip(v), strings.Join(words, ", "))
		return ""
	}
	return v
}

// number reads a whole number.
func (q *paramReader) number(name string, def, low, high int) int {
	v := q.take(name)
	if v == "" {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		q.wrong(name, "is %q; give a whole number from %d to %d", clip(v), low, high)
		return def
	}
	return n
}

// time reads an RFC 3339 time, zero if it is absent.
func (q *paramReader) time(name string) time.Time {
	v := q.take(name)
	if v == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		hint := ""
		if strings.Contains(v, " ") {
			hint = ` (a "+" in a query must be written %2B)`
		}
		q.wrong(name, "is %q; give an RFC 3339 time such as 2026-11-22T08:30:00Z%s", clip(v), hint)
		return time.Time{}
	}
	if year := t.UTC().Year(); year < 1970 || year > 2261 {
		q.wrong(name, "is in the year %d; give a time from 1970 to 2261", year)
		return time.Time{}
	}
	return t.UTC()
}

// span reads from and to, which must be in order if both are given.
func (q *paramReader) span() (from, to time.Time) {
	from, to = q.time("from"), q.time("to")
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		q.wrong("from", "is not before \"to\"; the range begins at from and ends before to")
	}
	return from, to
}

// duration reads a whole number of minutes such as 5m or 1h.
func (q *paramReader) minutes(name string, def, low, high time.Duration) time.Duration {
	v := q.take(name)
	if v == "" {
		return def
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < low || d > high || d%time.Minute != 0 {
		q.wrong(name, "is %q; give whole minutes from 1m to 24h, such as 5m or 1h", clip(v))
		return def
	}
	return d
}

// wait reads how long a caller is willing to wait, such as 30s; none by default.
func (q *paramReader) wait(name string, high time.Duration) time.Duration {
	v := q.take(name)
	if v == "" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > high {
		q.wrong(name, "is %q; give a time from 0s to %v, such as 30s", clip(v), high)
		return 0
	}
	return d
}

// err returns what is wrong, nil if nothing is. Parameters that were never asked
// for are wrong too: they are nearly always misspelt, and would be ignored.
func (q *paramReader) err() error {
	if q.problem != nil {
		return q.problem
	}
	var unknown []string
	for name := range q.values {
		if !slices.Contains(q.known, name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		if len(q.known) == 0 {
			q.wrong(clip(name), "is not known here; this takes no query parameters")
			continue
		}
		q.wrong(clip(name), "is not known here; the parameters are %s", strings.Join(q.known, ", "))
	}
	if len(q.errs) == 0 {
		return nil
	}
	first := q.errs[0]
	p := newProblem(slugInvalidParameter, fmt.Sprintf("the query parameter %q %s", strings.TrimPrefix(first.Location, "query."), first.Message))
	p.Errors = q.errs
	return p
}
