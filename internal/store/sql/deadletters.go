package sql

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"millrace/internal/deadletter"
)

// The statements of dead letters. A filter that is not set is passed as the empty
// string, and bounds that are not set as the ends of the range.
const (
	addLetter = `INSERT INTO dead_letters (tenant_id, id, kind, reason, source, type, event_id, batch_id, received_ns, attempts, last_attempt_ns, content_type, truncated, payload)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (tenant_id, id) DO NOTHING`

	listLetters = `SELECT tenant_id, id, kind, reason, source, type, event_id, batch_id, received_ns, attempts, last_attempt_ns, content_type, truncated, payload
FROM dead_letters
WHERE tenant_id = $1 AND ($2 = '' OR kind = $2) AND ($3 = '' OR type = $3)
  AND received_ns >= $4 AND received_ns < $5 AND (received_ns, id) < ($6, $7)
ORDER BY received_ns DESC, id DESC LIMIT $8`

	getLetter = `SELECT tenant_id, id, kind, reason, source, type, event_id, batch_id, received_ns, attempts, last_attempt_ns, content_type, truncated, payload
FROM dead_letters WHERE tenant_id = $1 AND id = $2`

	deleteLetter = `DELETE FROM dead_letters WHERE tenant_id = $1 AND id = $2`

	recordAttempt = `UPDATE dead_letters SET attempts = attempts + 1, last_attempt_ns = $1, reason = $2
WHERE tenant_id = $3 AND id = $4`

	countLetters = `SELECT kind, count(*) FROM dead_letters GROUP BY kind`

	// A parked order waits for a person however long that takes.
	dropLetters = `DELETE FROM dead_letters WHERE (tenant_id, id) IN
(SELECT tenant_id, id FROM dead_letters WHERE received_ns < $1 AND kind <> 'order' ORDER BY received_ns LIMIT $2)`
)

// maxListBytes bounds the payloads of one page; the cursor goes on from there. A
// page has at least one letter, however large.
const maxListBytes = 8 << 20

// DeadLetters is the deadletter.Store of a SQL database.
type DeadLetters struct{ on Pools }

var _ deadletter.Store = (*DeadLetters)(nil)

// NewDeadLetters returns the dead letters of a database.
func NewDeadLetters(on Pools) *DeadLetters { return &DeadLetters{on: on} }

// Add writes the letters. See deadletter.Store.
func (s *DeadLetters) Add(ctx context.Context, letters []deadletter.Letter) error {
	for len(letters) > 0 {
		n := lettersAtOnce(letters)
		if err := transactOnce(ctx, s.on, func(tx transaction) error { return insertLetters(ctx, tx, letters[:n]) }); err != nil {
			return in("add dead letters", err)
		}
		letters = letters[n:]
	}
	return nil
}

// What one transaction of Add holds: while it lasts nobody else writes.
const (
	maxLettersAtOnce     = 500
	maxLetterBytesAtOnce = 512 << 10
)

// lettersAtOnce returns how many of the letters, from the first on, are written in
// one transaction: at least one.
func lettersAtOnce(letters []deadletter.Letter) int {
	bytes := 0
	for i := range letters {
		if bytes += len(letters[i].Payload); i > 0 && bytes > maxLetterBytesAtOnce || i == maxLettersAtOnce {
			return i
		}
	}
	return len(letters)
}

func insertLetters(ctx context.Context, tx transaction, letters []deadletter.Letter) error {
	p := prepareIn(tx)
	defer p.close()
	stmt, err := p.stmt(ctx, addLetter)
	if err != nil {
		return err
	}
	for i := range letters {
		if _, err := stmt.ExecContext(ctx, LetterArgs(&letters[i])...); err != nil {
			return in("letter "+letters[i].ID, err)
		}
	}
	return nil
}

// AddLetter is the statement that writes one letter and leaves one that is there
// as it is, for a store that does so in a transaction of its own. LetterArgs are
// its arguments.
const AddLetter = addLetter

// LetterArgs returns the arguments of AddLetter: string, int64 and []byte.
func LetterArgs(l *deadletter.Letter) []any {
	payload := l.Payload
	if payload == nil {
		payload = []byte{}
	}
	return []any{l.TenantID, l.ID, string(l.Kind), readable(l.Reason), readable(l.Source), readable(l.Type),
		readable(l.EventID), readable(l.BatchID),
		nanos(l.ReceivedAt), int64(l.Attempts), nanos(l.LastAttemptAt), readable(l.ContentType), number(l.Truncated), payload}
}

// List returns letters newest first. See deadletter.Store.
func (s *DeadLetters) List(ctx context.Context, f deadletter.Filter, limit int, cursor string) ([]deadletter.Letter, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("list dead letters: the limit is %d; ask for at least 1", limit)
	}
	before := letterCursor{receivedNs: math.MaxInt64}
	if cursor != "" {
		var err error
		if before, err = parseLetterCursor(cursor); err != nil {
			return nil, "", err
		}
	}
	if !storable(string(f.Kind), f.Type) {
		return nil, "", nil
	}
	rows, err := s.on.Lists.QueryContext(ForTenant(ctx, f.TenantID), listLetters, f.TenantID, string(f.Kind), f.Type,
		bound(f.From, math.MinInt64), bound(f.To, math.MaxInt64), before.receivedNs, before.id, limit+1)
	if err != nil {
		return nil, "", in("list dead letters", err)
	}
	defer rows.Close()
	var letters []deadletter.Letter
	bytes := 0
	for rows.Next() {
		if len(letters) >= limit || bytes >= maxListBytes {
			last := &letters[len(letters)-1]
			return letters, letterCursor{receivedNs: nanos(last.ReceivedAt), id: last.ID}.String(), nil
		}
		l, err := scanLetter(rows)
		if err != nil {
			return nil, "", in("list dead letters", err)
		}
		letters = append(letters, l)
		bytes += len(l.Payload)
	}
	return letters, "", in("list dead letters", rows.Err())
}

// Get returns one letter. See deadletter.Store.
func (s *DeadLetters) Get(ctx context.Context, tenantID, id string) (deadletter.Letter, error) {
	l, err := scanLetter(s.on.Read.QueryRowContext(ForTenant(ctx, tenantID), getLetter, tenantID, id))
	if noRows(err) {
		return deadletter.Letter{}, deadletter.ErrNotFound
	}
	return l, in("read a dead letter", err)
}

// Delete removes one letter. See deadletter.Store.
func (s *DeadLetters) Delete(ctx context.Context, tenantID, id string) error {
	return s.change(ctx, "delete a dead letter", deleteLetter, tenantID, id)
}

// RecordAttempt counts a failed redrive. See deadletter.Store.
func (s *DeadLetters) RecordAttempt(ctx context.Context, tenantID, id string, at time.Time, reason string) error {
	return s.change(ctx, "record a redrive", recordAttempt, nanos(at), readable(reason), tenantID, id)
}

// change runs a statement that changes one letter.
func (s *DeadLetters) change(ctx context.Context, doing, statement string, args ...any) error {
	ok, err := one(s.on.Write.ExecContext(ctx, statement, args...))
	switch {
	case err != nil:
		return in(doing, err)
	case !ok:
		return deadletter.ErrNotFound
	}
	return nil
}

// Count returns the number of letters by kind. See deadletter.Store.
func (s *DeadLetters) Count(ctx context.Context) (map[deadletter.Kind]int64, error) {
	rows, err := s.on.AllLists.QueryContext(ctx, countLetters)
	if err != nil {
		return nil, in("count dead letters", err)
	}
	defer rows.Close()
	counts := map[deadletter.Kind]int64{}
	for rows.Next() {
		var kind string
		var n int64
		if err := rows.Scan(&kind, &n); err != nil {
			return nil, in("count dead letters", err)
		}
		counts[deadletter.Kind(kind)] = n
	}
	return counts, in("count dead letters", rows.Err())
}

// DropBefore removes old letters. See deadletter.Store.
func (s *DeadLetters) DropBefore(ctx context.Context, t time.Time, limit int) (int, error) {
	if limit < 1 {
		return 0, fmt.Errorf("drop dead letters: the limit is %d; allow at least 1", limit)
	}
	r, err := s.on.Write.ExecContext(ctx, dropLetters, bound(t, math.MinInt64), limit)
	if err != nil {
		return 0, in("drop dead letters", err)
	}
	n, err := r.RowsAffected()
	return int(n), in("drop dead letters", err)
}

func scanLetter(row interface{ Scan(...any) error }) (deadletter.Letter, error) {
	var l deadletter.Letter
	var kind string
	var received, lastAttempt, truncated int64
	err := row.Scan(&l.TenantID, &l.ID, &kind, &l.Reason, &l.Source, &l.Type, &l.EventID, &l.BatchID,
		&received, &l.Attempts, &lastAttempt, &l.ContentType, &truncated, &l.Payload)
	l.Kind = deadletter.Kind(kind)
	l.ReceivedAt, l.LastAttemptAt, l.Truncated = timeOf(received), timeOf(lastAttempt), truncated != 0
	return l, err
}

// readable returns text that every database takes: dead letters are where broken
// text ends up, and the payload keeps it as it was.
func readable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// storable says whether every database could hold texts. What it cannot hold is in
// none of its rows, and is not asked for.
func storable(texts ...string) bool {
	for _, s := range texts {
		if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
			return false
		}
	}
	return true
}

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// letterCursor is the place right behind a letter, in the order of List.
type letterCursor struct {
	receivedNs int64
	id         string
}

// A cursor's text is base64url of version, time, id and a checksum, which tells a
// cursor from a guess; it keeps no secret.
const (
	letterCursorVersion  = 1
	letterCursorMaxBytes = 1 << 10
)

func (c letterCursor) String() string {
	b := []byte{letterCursorVersion}
	b = binary.BigEndian.AppendUint64(b, uint64(c.receivedNs))
	b = append(b, c.id...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseLetterCursor(s string) (letterCursor, error) {
	if len(s) > letterCursorMaxBytes {
		return letterCursor{}, deadletter.ErrBadCursor
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < 1+8+4 || b[0] != letterCursorVersion {
		return letterCursor{}, deadletter.ErrBadCursor
	}
	body, sum := b[:len(b)-4], b[len(b)-4:]
	if crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(sum) || !storable(string(body[9:])) {
		return letterCursor{}, deadletter.ErrBadCursor
	}
	return letterCursor{receivedNs: int64(binary.BigEndian.Uint64(body[1:])), id: string(body[9:])}, nil
}
