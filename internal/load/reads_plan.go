package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
)

// readPattern is a path with at most one placeholder.
type readPattern struct {
	before, after string
	member        string // the placeholder's name; empty if there is none
}

func parseReadPattern(path string) (p readPattern, err error) {
	bad := func() (readPattern, error) {
		return p, fmt.Errorf("path %q: write a path with at most one member's name in braces, such as /products/{sku}", path)
	}
	if !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return bad()
	}
	before, rest, found := strings.Cut(path, "{")
	if !found {
		return readPattern{before: path}, nil
	}
	member, after, closed := strings.Cut(rest, "}")
	if !closed || member == "" || strings.ContainsAny(before+member+after, "{}") {
		return bad()
	}
	return readPattern{before: before, after: after, member: member}, nil
}

// readTarget is one address to ask for.
type readTarget struct {
	head        string // the request line
	member, key string // of the answer; no member: not looked at
}

// path returns the target's path.
func (t *readTarget) path() string {
	return strings.TrimSuffix(strings.TrimPrefix(t.head, "GET "), " HTTP/1.1\r\n")
}

// readPlan is the endless sequence of reads. Number k is always the same one for the
// same options. Only what was seen changes; it is safe for concurrent use.
type readPlan struct {
	seed        uint64
	conditional float64
	groups      []readGroup
	targets     []readTarget
	head        string   // headers that all requests have
	languages   []string // header lines
	// seen holds, by target and language, the last answer with a body.
	seen []atomic.Pointer[seenDocument]
}

// readGroup are the targets of one path, in the order of popularity.
type readGroup struct {
	first, count int
	popularity   popularity
}

// seenDocument is what one strong ETag stands for.
type seenDocument struct {
	etag string
	sum  uint64 // of the bytes
}

// plannedRead is one read.
type plannedRead struct {
	target      *readTarget
	language    int // -1 for none
	slot        *atomic.Pointer[seenDocument]
	conditional bool
}

// newReadPlan looks up what is to be read.
func newReadPlan(ctx context.Context, base *url.URL, o ReadsOptions) (*readPlan, error) {
	p := &readPlan{seed: o.Seed, conditional: o.Conditional, head: headers(base, o.Token)}
	if o.Tenant != "" {
		p.head += "X-Millrace-Tenant: " + o.Tenant + "\r\n"
	}
	if o.Encoding != "" {
		p.head += "Accept-Encoding: " + o.Encoding + "\r\n"
	}
	for _, l := range o.Languages {
		p.languages = append(p.languages, "Accept-Language: "+l+"\r\n")
	}
	for _, path := range o.Paths {
		pattern, err := parseReadPattern(path)
		if err != nil {
			return nil, err
		}
		keys := []string{""}
		if pattern.member != "" {
			if keys = o.Keys; len(keys) == 0 {
				if keys, err = listKeys(ctx, base, o, pattern); err != nil {
					return nil, err
				}
			}
		}
		p.groups = append(p.groups, readGroup{first: len(p.targets), count: len(keys), popularity: popularityOf(len(keys), o.Zipf)})
		prefix := strings.TrimSuffix(base.EscapedPath(), "/")
		for _, key := range keys {
			p.targets = append(p.targets, readTarget{member: pattern.member, key: key,
				head: "GET " + prefix + pattern.before + url.PathEscape(key) + pattern.after + " HTTP/1.1\r\n"})
		}
	}
	p.seen = make([]atomic.Pointer[seenDocument], len(p.targets)*max(len(p.languages), 1))
	return p, nil
}

// readDrawer draws reads for one goroutine.
type readDrawer struct {
	plan *readPlan
	pcg  *rand.PCG
	rng  *rand.Rand
}

func (p *readPlan) drawer() readDrawer {
	pcg := rand.NewPCG(0, 0)
	return readDrawer{plan: p, pcg: pcg, rng: rand.New(pcg)}
}

// draw returns read number k.
func (d readDrawer) draw(k int) plannedRead {
	p := d.plan
	d.pcg.Seed(p.seed, uint64(k))
	g := &p.groups[0]
	if len(p.groups) > 1 {
		g = &p.groups[d.rng.IntN(len(p.groups))]
	}
	t := g.first + g.popularity.draw(d.rng, g.count)
	r := plannedRead{target: &p.targets[t], language: -1, slot: &p.seen[t*max(len(p.languages), 1)]}
	if len(p.languages) > 0 {
		r.language = d.rng.IntN(len(p.languages))
		r.slot = &p.seen[t*len(p.languages)+r.language]
	}
	r.conditional = p.conditional > 0 && d.rng.Float64() < p.conditional
	return r
}

// render appends a read's request to dst. etag is what it asks about, empty for
// nothing.
func (p *readPlan) render(dst []byte, r plannedRead, etag string) []byte {
	dst = append(dst, r.target.head...)
	dst = append(dst, p.head...)
	if r.language >= 0 {
		dst = append(dst, p.languages[r.language]...)
	}
	if etag != "" {
		dst = append(dst, "If-None-Match: "...)
		dst = append(dst, etag...)
		dst = append(dst, "\r\n"...)
	}
	return append(dst, "\r\n"...)
}

// enough ends the walk through a list.
var errEnough = errors.New("enough")

// listKeys asks the server for the keys of a path.
func listKeys(ctx context.Context, base *url.URL, o ReadsOptions, p readPattern) ([]string, error) {
	list := strings.Trim(p.before, "/")
	r := orderReader{&reader{base: base, token: o.Token, timeout: o.Timeout, client: newClient(1, o.TLS)}}
	defer r.close()
	k := keyCollector{member: p.member, most: o.MaxKeys, known: map[string]bool{}}
	searches := []url.Values{{}}
	if list == "places" { // they are searched for, not listed
		searches = nil
		for letter := 'a'; letter <= 'z'; letter++ {
			searches = append(searches, url.Values{"prefix": {string(letter)}, "limit": {placesPage}})
		}
	}
	for _, q := range searches {
		if o.Tenant != "" {
			q.Set("tenant", o.Tenant)
		}
		err := k.collect(ctx, r, list, q)
		if errors.Is(err, errEnough) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("path %s: looking up what there is: %w", p, err)
		}
	}
	if len(k.keys) == 0 {
		return nil, fmt.Errorf("path %s: the server has none in /%s; put some in, or give the values of {%s} as keys", p, list, p.member)
	}
	slices.Sort(k.keys) // a run draws the same ones again whatever order they came in
	return k.keys, nil
}

// placesPage is the most places of one search.
const placesPage = "100"

// String writes a pattern as parseReadPattern reads it.
func (p readPattern) String() string {
	if p.member == "" {
		return p.before
	}
	return p.before + "{" + p.member + "}" + p.after
}

// keyCollector gathers the values of a member over lists.
type keyCollector struct {
	member string
	most   int
	keys   []string
	known  map[string]bool
}

// collect walks the pages of one list.
func (k *keyCollector) collect(ctx context.Context, r orderReader, list string, q url.Values) error {
	limited := q.Has("limit")
	for {
		u := *r.base.JoinPath(list)
		if !limited {
			q.Set("limit", pageSize)
		}
		u.RawQuery = q.Encode()
		var page map[string]json.RawMessage
		if found, err := r.get(ctx, &u, &page); err != nil {
			return err
		} else if !found {
			return fmt.Errorf("GET %s: 404; there is no such list, so give the values of {%s} as keys", u.Redacted(), k.member)
		}
		if err := k.page(page); err != nil {
			return err
		}
		var next string
		if raw := page["nextCursor"]; raw != nil {
			if err := json.Unmarshal(raw, &next); err != nil {
				return fmt.Errorf("GET %s: nextCursor: %w", u.Redacted(), err)
			}
		}
		switch next {
		case "":
			return nil
		case q.Get("cursor"):
			return fmt.Errorf("GET %s: the next cursor is the same again", u.Redacted())
		}
		q.Set("cursor", next)
	}
}

// page takes the keys out of the one array that a page of a list holds.
func (k *keyCollector) page(page map[string]json.RawMessage) error {
	for _, raw := range page {
		var rows []map[string]json.RawMessage
		if len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &rows) != nil {
			continue
		}
		for _, row := range rows {
			key, ok := scalar(row[k.member])
			if !ok {
				return fmt.Errorf("the list's entries have no %q", k.member)
			}
			if !k.known[key] {
				k.known[key] = true
				k.keys = append(k.keys, key)
			}
			if len(k.keys) == k.most {
				return errEnough
			}
		}
	}
	return nil
}

// scalar returns a JSON string's text, or a number as it is written.
func scalar(raw json.RawMessage) (string, bool) {
	if len(raw) == 0 {
		return "", false
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text, text != ""
	}
	if c := raw[0]; c == '-' || '0' <= c && c <= '9' {
		return string(raw), true
	}
	return "", false
}
