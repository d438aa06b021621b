package load

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// readOutcome is what became of a read.
type readOutcome uint8

const (
	readServed      readOutcome = iota // 200
	readNotModified                    // 304
	readRefused                        // 429 or 503
	readFailed                         // another answer
	readUnanswered                     // no answer
	readUnreached                      // no connection
)

// good says whether the reader has what was asked for.
func (o readOutcome) good() bool { return o == readServed || o == readNotModified }

// judgeRead tells the outcome of a round trip.
func judgeRead(a answer, err error) readOutcome {
	if err != nil {
		if se, ok := err.(*sendError); ok && se.nothingSent {
			return readUnreached
		}
		return readUnanswered
	}
	switch a.status {
	case 200:
		return readServed
	case 304:
		return readNotModified
	case 429, 503:
		return readRefused
	}
	return readFailed
}

// check looks whether a 200 or 304 keeps what HTTP promises and is of what was asked
// for. sent is the ETag that the request carried, empty if none. It returns what is
// wrong, or nil.
//
// A body is read once for each ETag; after that its bytes must be the same, as a
// strong ETag says.
func (r plannedRead) check(a answer, sent string) error {
	if !strongTag(a.etag) {
		return fmt.Errorf("%d without a strong ETag: %q", a.status, clip(a.etag, 80))
	}
	if a.status == 304 {
		switch {
		case sent == "":
			return errors.New("304 although nothing was asked about")
		case sent != string(a.etag):
			return fmt.Errorf("304 of %s although %s was asked about", clip(a.etag, 80), clip([]byte(sent), 80))
		}
		return nil
	}
	sum := xxhash.Sum64(a.body)
	if d := r.slot.Load(); d != nil && d.etag == string(a.etag) {
		if d.sum != sum {
			return fmt.Errorf("two bodies have the ETag %s", clip(a.etag, 80))
		}
		return nil
	}
	if err := r.target.checkBody(a); err != nil {
		return err
	}
	r.slot.Store(&seenDocument{etag: string(a.etag), sum: sum})
	return nil
}

// strongTag says whether a text is a strong ETag: RFC 9110, section 8.8.3.
func strongTag(tag []byte) bool {
	return len(tag) >= 2 && tag[0] == '"' && tag[len(tag)-1] == '"' && bytes.IndexByte(tag[1:len(tag)-1], '"') < 0
}

// checkBody looks whether a body is of what was asked for.
func (t *readTarget) checkBody(a answer) error {
	if t.member == "" {
		return nil
	}
	body, err := decoded(a)
	if err != nil {
		return err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return fmt.Errorf("the body is not a JSON object: %q", clip(body, 100))
	}
	if got, _ := scalar(members[t.member]); got != t.key {
		return fmt.Errorf("%q was asked for and %q came", t.key, clip([]byte(got), 80))
	}
	return nil
}

// decoded returns an answer's body without its Content-Encoding.
func decoded(a answer) ([]byte, error) {
	var in io.Reader
	switch coding := string(a.coding); coding {
	case "", "identity":
		return a.body, nil
	case "gzip":
		z, err := gzip.NewReader(bytes.NewReader(a.body))
		if err != nil {
			return nil, fmt.Errorf("the body is not gzip: %w", err)
		}
		in = z
	case "zstd":
		z, err := zstd.NewReader(bytes.NewReader(a.body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxAnswerBytes))
		if err != nil {
			return nil, fmt.Errorf("the body is not zstd: %w", err)
		}
		defer z.Close()
		in = z
	default:
		return nil, fmt.Errorf("the body has the Content-Encoding %q, which cannot be read", clip(a.coding, 40))
	}
	body, err := io.ReadAll(io.LimitReader(in, maxAnswerBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the body is not %s: %w", a.coding, err)
	case len(body) > maxAnswerBytes:
		return nil, fmt.Errorf("the body has more than %d bytes without its Content-Encoding", maxAnswerBytes)
	}
	return body, nil
}
