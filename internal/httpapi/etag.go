package httpapi

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// The ETags of this server are strong, and of these forms:
//
//	"v7"                   an order, whose id no other tenant's order has
//	"v7-1f3a9c2e"          a version, and a hash of what it says or of whose it is
//	"v7-1f3a9c2e-de-zstd"  the same in a language and an encoding
//	"h-0123456789abcdef"   a list: the hash of all of it
//
// A version alone would not do: the same address shows each tenant its own, and after a
// backup was restored a version stands for something else than before.

// versionTag is the ETag of a version alone: "v7", quotes included.
func versionTag(version int64) string { return `"v` + strconv.FormatInt(version, 10) + `"` }

// contentTag is the ETag of a version that says what has this xxHash64, in a language
// if it is not empty.
func contentTag(version int64, sum uint64, language string) string {
	const digits = "0123456789abcdef"
	var room [64]byte
	b := append(room[:0], `"v`...)
	b = strconv.AppendInt(b, version, 10)
	b = append(b, '-')
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, digits[sum>>shift&15])
	}
	if language != "" {
		b = append(append(b, '-'), language...)
	}
	return string(append(b, '"'))
}

// tenantTag is the ETag of a version of something of a tenant.
func tenantTag(tenantID string, version int64) string {
	return contentTag(version, tenantSum(tenantID), "")
}

func tenantSum(tenantID string) uint64 { return xxhash.Sum64String(tenantID) }

// suffixed adds what tells a representation from others to an ETag: "v7" and de make
// "v7-de".
func suffixed(tag, suffix string) string { return tag[:len(tag)-1] + "-" + suffix + `"` }

// etag is what an ETag of this server says of what it stands for, in whatever language
// and encoding.
type etag struct {
	version int64
	hash    uint32
	hashed  bool // it has a hash
}

// readETag reads an ETag, false if it is none of a version.
func readETag(tag string) (e etag, ok bool) {
	if len(tag) < len(`"v1"`) || !strings.HasPrefix(tag, `"v`) || tag[len(tag)-1] != '"' || strings.Count(tag, `"`) != 2 {
		return etag{}, false
	}
	version, rest, more := strings.Cut(tag[2:len(tag)-1], "-")
	if version == "" || version[0] < '1' || version[0] > '9' || more && rest == "" {
		return etag{}, false
	}
	var err error
	if e.version, err = strconv.ParseInt(version, 10, 64); err != nil {
		return etag{}, false
	}
	// No language looks like it.
	const hashDigits = 8
	hash, _, _ := strings.Cut(rest, "-")
	if len(hash) == hashDigits && strings.ToLower(hash) == hash {
		if n, err := strconv.ParseUint(hash, 16, 32); err == nil {
			e.hash, e.hashed = uint32(n), true
		}
	}
	return e, true
}

// hashes says whether it can stand for what has this xxHash64: whether it has that
// hash, or none.
func (e etag) hashes(sum uint64) bool { return !e.hashed || e.hash == uint32(sum) }

// matches says whether an If-None-Match, as all its lines, names the ETag of what would
// be answered, by the weak comparison of RFC 9110, in which a proxy's W/ does not matter.
func matches(ifNoneMatch []string, tag string) bool {
	for _, list := range ifNoneMatch {
		for more := true; more; {
			var named string
			named, list, more = strings.Cut(list, ",")
			named = strings.TrimPrefix(strings.Trim(named, " \t"), "W/")
			if named == tag || named == "*" {
				return true
			}
		}
	}
	return false
}

// precondition is what a change says of the version it means. The zero value says
// nothing.
type precondition struct {
	// given says that there is one.
	given bool
	// absent: nothing must be there. Otherwise any of tags must be, or, if there are
	// none, anything.
	absent bool
	tags   []etag
}

// anything says that something must stand, whatever it is.
func (p *precondition) anything() bool { return p.given && !p.absent && len(p.tags) == 0 }

// names says whether it means a version that says what has this xxHash64.
func (p *precondition) names(version int64, sum uint64) bool {
	return slices.ContainsFunc(p.tags, func(e etag) bool { return e.version == version && e.hashes(sum) })
}

// version returns the version that a change of something of a tenant's means, 0 if it
// does not say: of several the one that stands, which stands tells.
func (p *precondition) version(what, tenantID string, stands func() (int64, error)) (int64, error) {
	sum := tenantSum(tenantID)
	switch {
	case len(p.tags) == 0:
		return 0, nil
	case len(p.tags) == 1 && p.tags[0].hashes(sum):
		return p.tags[0].version, nil
	}
	now, err := stands()
	if err == nil && !p.names(now, sum) {
		err = staleVersion(what, tenantTag(tenantID, now))
	}
	return now, err
}

// staleVersion is the problem of a change that means another version than the one
// that stands, which has the ETag.
func staleVersion(what, tag string) *problem {
	return newProblem(slugPreconditionFailed, what+" is at "+tag+" now; read it, put your change on top and send that ETag in If-Match").
		with("ETag", tag)
}

// readPrecondition reads If-Match and If-None-Match of a change, each as all its lines.
func readPrecondition(ifMatch, ifNoneMatch []string) (precondition, error) {
	match, none := strings.Trim(strings.Join(ifMatch, ","), " \t,"), strings.Trim(strings.Join(ifNoneMatch, ","), " \t,")
	switch {
	case match != "" && none != "":
		return precondition{}, invalidHeader("If-None-Match", "send it or If-Match, not both")
	case none == "*":
		return precondition{given: true, absent: true}, nil
	case none != "":
		return precondition{}, invalidHeader("If-None-Match", "a change takes * alone: it then creates and never replaces")
	case match == "":
		return precondition{}, nil
	case match == "*":
		return precondition{given: true}, nil
	}
	p := precondition{given: true}
	for named := range strings.SplitSeq(match, ",") {
		if named = strings.Trim(named, " \t"); named == "" {
			continue
		}
		if strings.HasPrefix(named, "W/") {
			return precondition{}, invalidHeader("If-Match", fmt.Sprintf("%s is weak, and only a strong ETag says what a change may replace: something on the way has weakened it; send it without W/", clip(named)))
		}
		e, ok := readETag(named)
		if !ok {
			return precondition{}, invalidHeader("If-Match", fmt.Sprintf("%s is not an ETag of this server that a change can mean; send the one you were given, such as %s, quotes included", clip(named), `"v3-1f3a9c2e"`))
		}
		p.tags = append(p.tags, e)
	}
	return p, nil
}
