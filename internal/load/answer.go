package load

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// outcome is what became of a batch.
type outcome uint8

const (
	accepted  outcome = iota
	refused           // 429 or 503: not stored, may be tried again
	failed            // another answer that says it was not stored
	unknown           // may or may not have been stored
	unreached         // no connection: not stored
)

// outcomeUnknownType ends the problem type of an answer that leaves open whether
// the events were stored.
const outcomeUnknownType = "/outcome-unknown"

// verdict is an accepted batch in detail.
type verdict struct {
	accepted   int
	duplicates int
	rejected   []rejection // events that became dead letters
}

type rejection struct {
	Index  int    `json:"index"`
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// judge tells the outcome of a round trip.
func judge(a answer, err error) outcome {
	if err != nil {
		if se, ok := err.(*sendError); ok && se.nothingSent {
			return unreached
		}
		return unknown
	}
	switch {
	case a.status >= 200 && a.status < 300:
		return accepted
	case a.status == 503 && problemType(a.body) == outcomeUnknownType:
		return unknown
	case a.status == 429 || a.status == 503:
		return refused
	case a.status >= 500:
		return unknown
	default:
		return failed
	}
}

type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

// problemType returns the last path element of a problem's type, with its slash.
func problemType(body []byte) string {
	var p problem
	if json.Unmarshal(body, &p) != nil {
		return ""
	}
	if i := bytes.LastIndexByte([]byte(p.Type), '/'); i >= 0 {
		return p.Type[i:]
	}
	return p.Type
}

// explain says what an answer that was not 2xx had to say, for people.
func explain(a answer) string {
	var p problem
	switch {
	case json.Unmarshal(a.body, &p) == nil && p.Detail != "":
		return fmt.Sprintf("%d %s: %s", a.status, p.Title, p.Detail)
	case p.Title != "":
		return fmt.Sprintf("%d %s", a.status, p.Title)
	default:
		return fmt.Sprintf("%d %s", a.status, clip(bytes.TrimSpace(a.body), 200))
	}
}

// parseVerdict reads the body of a 202. The common answer, without rejections,
// is read without decoding.
func parseVerdict(body []byte, sent int) (verdict, error) {
	v, quick := quickVerdict(body)
	if !quick {
		var full struct {
			Accepted   *int        `json:"accepted"`
			Duplicates int         `json:"duplicates"`
			Rejected   []rejection `json:"rejected"`
		}
		if err := json.Unmarshal(body, &full); err != nil || full.Accepted == nil {
			return v, fmt.Errorf(`the server answered 2xx without {"accepted":…}: %q`, clip(body, 100))
		}
		v = verdict{accepted: *full.Accepted, duplicates: full.Duplicates, rejected: full.Rejected}
	}
	if v.accepted+len(v.rejected) != sent {
		return v, fmt.Errorf("the server accepted %d events and rejected %d of a batch of %d", v.accepted, len(v.rejected), sent)
	}
	for _, r := range v.rejected {
		if r.Index < 0 || r.Index >= sent {
			return v, fmt.Errorf("the server rejected event %d of a batch of %d", r.Index, sent)
		}
	}
	return v, nil
}

func quickVerdict(body []byte) (verdict, bool) {
	if !bytes.Contains(body, []byte(`"rejected":[]`)) {
		return verdict{}, false
	}
	n, ok := numberAfter(body, `"accepted":`)
	d, _ := numberAfter(body, `"duplicates":`)
	return verdict{accepted: n, duplicates: d}, ok
}

func numberAfter(body []byte, name string) (int, bool) {
	i := bytes.Index(body, []byte(name))
	if i < 0 {
		return 0, false
	}
	rest := body[i+len(name):]
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(string(rest[:end]))
	return n, err == nil
}
