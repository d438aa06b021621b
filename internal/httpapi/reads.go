package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"millrace/internal/auth"
	"millrace/internal/catalog"
	"millrace/internal/place"
)

// What is read from memory goes out here: hot routes, so that nothing is formatted
// twice and nothing looked up that does not matter to them.

// staleAfter is for how long what is in memory may not have been compared with the
// database before answers say so. Until then it is as fresh as it is promised to be.
const staleAfter = 4 * time.Second

// selfMeasuredBytes is the largest body whose length net/http finds out and sends by
// itself. It does so without a further header in a map that then would have to grow.
const selfMeasuredBytes = 2048

// caching is what the headers of reads from memory say to caches. It is made once.
type caching struct {
	// fresh and stale are what visitors are told, by whether the URL says everything:
	// only then may a cache that others use keep it, as not all heed Vary.
	fresh, stale [2][]string
	// vary is by who can ask and whether Accept-Language counts.
	vary [3][2][]string
}

// Who can ask.
const (
	askedWithCredential = iota
	askedByVisitorsToo
	askedByOperator
)

func newCaching(c HTTPCache) *caching {
	fresh := "no-cache"
	if c.MaxAge >= time.Second || c.StaleWhileRevalidate >= time.Second {
		fresh = fmt.Sprintf("max-age=%d", c.MaxAge/time.Second)
		if c.StaleWhileRevalidate >= time.Second {
			fresh += fmt.Sprintf(", stale-while-revalidate=%d", c.StaleWhileRevalidate/time.Second)
		}
	}
	made := &caching{fresh: [2][]string{{"private, " + fresh}, {"public, " + fresh}}, stale: [2][]string{valueNoCache, {"public, no-cache"}}}
	for who, caller := range [...]string{"Authorization, X-Api-Key", "Authorization, X-Api-Key, " + tenantHeader, tenantHeader} {
		made.vary[who] = [2][]string{{"Accept-Encoding, " + caller}, {"Accept-Encoding, Accept-Language, " + caller}}
	}
	return made
}

// entity is what a read from memory answers with besides the bytes.
type entity struct {
	visitor  bool                 // who reads showed no credential
	named    bool                 // the URL says whose it is, or it is nobody's
	language bool                 // Accept-Language counted
	stale    func() time.Duration // as of Options.CatalogStale
	tag      string
	lang     []string // Content-Language, nil if there is none
	encoding []string // Content-Encoding, nil if there is none
	length   int
}

// head writes the headers of an answer, and all of it if nothing of the body is to
// follow: the caller has what there is already, or asked for the headers alone.
func (s *Server) head(ex *exchange, r *http.Request, e *entity) (done bool) {
	h := ex.Header()
	h["Etag"] = ex.value(e.tag)
	who, language, open := askedWithCredential, 0, 0
	switch {
	case ex.surface == s.control:
		who = askedByOperator
	case s.o.CatalogPublic:
		who = askedByVisitorsToo
	}
	if e.language {
		language = 1
	}
	h["Vary"] = s.caching.vary[who][language]
	if e.lang != nil {
		h["Content-Language"] = e.lang
	}
	stale := s.sayStale(ex, e.stale())
	h["Cache-Control"] = valueNoCache
	if e.visitor {
		if e.named && !e.language {
			open = 1
		}
		h["Cache-Control"] = s.caching.fresh[open]
		if stale {
			h["Cache-Control"] = s.caching.stale[open] // or others would have it for fresh
		}
	}
	if known := r.Header["If-None-Match"]; len(known) > 0 && matches(known, e.tag) {
		ex.WriteHeader(http.StatusNotModified)
		return true
	}
	h["Content-Type"] = valueJSON
	if e.encoding != nil {
		h["Content-Encoding"] = e.encoding
	}
	isHead := r.Method == http.MethodHead
	if isHead || e.length > selfMeasuredBytes {
		h["Content-Length"] = ex.value(strconv.Itoa(e.length))
	}
	ex.WriteHeader(http.StatusOK)
	return isHead
}

// sayStale says so if what is in memory may be out of date by age.
func (s *Server) sayStale(ex *exchange, age time.Duration) bool {
	if age < staleAfter {
		return false
	}
	ex.Header()["Cache-Status"] = []string{s.staleStatus(ex.route.path, true, age)}
	return true
}

// refuseRead answers a read from memory with why there is nothing to show. That there
// is none may be out of date too.
func (s *Server) refuseRead(ex *exchange, r *http.Request, age time.Duration, err error) {
	if errors.Is(err, catalog.ErrNotFound) || errors.Is(err, place.ErrNotFound) {
		s.sayStale(ex, age)
	}
	ex.refuse(problemOf(ex.context(r), err))
}

// staleStatus is the Cache-Status (RFC 9211) of an answer that is served although it
// may be out of date, empty if it is not. age is how long ago it was last known to be
// fresh.
func (s *Server) staleStatus(route string, stale bool, age time.Duration) string {
	if !stale {
		return ""
	}
	s.metrics.stale.WithLabelValues(route).Inc()
	return "millrace; hit; ttl=-" + strconv.Itoa(ceilSeconds(age)) + "; detail=stale"
}

// show answers with a document that was made of something in memory.
func (s *Server) show(ex *exchange, r *http.Request, e *entity, d *document, of source) {
	d, err := s.variants.encoded(d, of, acceptedEncoding(r.Header["Accept-Encoding"]))
	if err != nil {
		ex.refuse(problemOf(ex.context(r), err))
		return
	}
	e.tag, e.lang, e.encoding, e.length = d.tag, d.language, d.encoding, len(d.body)
	if !s.head(ex, r, e) {
		_, _ = ex.Write(d.body)
	}
}

// showList answers with a JSON object whose member lists bodies. They are not copied:
// a page can be large.
func (s *Server) showList(ex *exchange, r *http.Request, e *entity, member string, bodies func(yield func([]byte) bool), end string) {
	begin := `{"` + member + `":[`
	sum := xxhash.New()
	e.length = len(begin) + len(end)
	_, _ = sum.WriteString(begin)
	n := 0
	for body := range bodies {
		if n++; n > 1 {
			_, _ = sum.WriteString(",")
			e.length++
		}
		_, _ = sum.Write(body)
		e.length += len(body)
	}
	_, _ = sum.WriteString(end)
	e.tag = fmt.Sprintf(`"h-%016x"`, sum.Sum64())
	if s.head(ex, r, e) {
		return
	}
	_, _ = ex.Write([]byte(begin))
	n = 0
	for body := range bodies {
		if n++; n > 1 {
			_, _ = ex.Write(comma)
		}
		if _, err := ex.Write(body); err != nil {
			return // the client went away
		}
	}
	_, _ = ex.Write([]byte(end))
}

// comma stands between the elements of a list. It is never written to.
var comma = []byte(",")

// timed bounds a read that may have to ask the database, which those from memory
// (inMemory) never do.
func (s *Server) timed(ctx context.Context, inMemory bool) (context.Context, context.CancelFunc) {
	if inMemory {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, s.o.QueryTimeout)
}

// queryOf reads the query of a plain route.
func queryOf(r *http.Request) *paramReader {
	if r.URL.RawQuery == "" {
		return new(paramReader)
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	in := params{values: values, err: err}
	return in.reader()
}

// onlyLang returns the language of a query that asks for that and nothing else, as
// nearly all do; ok is false if it must be read with care.
func onlyLang(query string) (lang string, ok bool) {
	if query == "" {
		return "", true
	}
	lang, ok = strings.CutPrefix(query, "lang=")
	for i := 0; i < len(lang) && ok; i++ {
		c := lang[i] | 0x20
		ok = c >= 'a' && c <= 'z' || lang[i] >= '0' && lang[i] <= '9' || lang[i] == '-'
	}
	return lang, ok
}

// noLanguage is the problem of a parameter lang that is none.
func noLanguage(lang string) *problem {
	return invalidParameter("lang", fmt.Sprintf("is %q, which is no language; give a BCP 47 tag such as en, de-AT or zh-Hant", clip(lang)))
}

// isVisitor says whether the caller showed no credential.
func isVisitor(p *auth.Principal) bool { return p.Method == methodVisitor }
