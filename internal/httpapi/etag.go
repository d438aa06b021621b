package httpapi

import (
	"fmt"
	"strconv"
	"strings"
)

// etagOf is the ETag of a version: "v7", quotes included.
func etagOf(version int64) string { return `"v` + strconv.FormatInt(version, 10) + `"` }

// etagVersion returns the version of an ETag of this server, false if it is none.
func etagVersion(tag string) (int64, bool) {
	digits, ok := strings.CutPrefix(tag, `"v`)
	if !ok || len(digits) < 2 || digits[len(digits)-1] != '"' || digits[0] < '1' || digits[0] > '9' {
		return 0, false
	}
	v, err := strconv.ParseInt(digits[:len(digits)-1], 10, 64)
	return v, err == nil
}

// representedVersion returns the version of what an ETag of this server stands for,
// in whatever language and encoding: "v7", "v7-de", "v7-gzip" and "v7-de-zstd" are all
// of version 7.
func representedVersion(tag string) (int64, bool) {
	version, _, represented := strings.Cut(tag, "-")
	if !represented {
		return etagVersion(tag)
	}
	if !strings.HasSuffix(tag, `"`) || strings.Count(tag, `"`) != 2 {
		return 0, false
	}
	return etagVersion(version + `"`)
}

// matchesTag says whether an If-None-Match names the ETag of what would be answered,
// by the weak comparison of RFC 9110.
func matchesTag(ifNoneMatch []string, tag string) bool {
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

// matches says whether an If-None-Match names a version: the weak comparison of
// RFC 9110, in which a proxy's W/ does not matter.
func matches(ifNoneMatch string, version int64) bool {
	for tag := range strings.SplitSeq(ifNoneMatch, ",") {
		tag = strings.TrimSpace(tag)
		if tag == "*" {
			return true
		}
		if v, ok := etagVersion(strings.TrimPrefix(tag, "W/")); ok && v == version {
			return true
		}
	}
	return false
}

// precondition is what a change says of the version it means. The zero value says
// nothing.
type precondition struct {
	// given says that there is one.
	given bool
	// absent: nothing must be there. Otherwise version must be, or, if it is zero,
	// any.
	absent  bool
	version int64
}

// readPrecondition reads If-Match and If-None-Match of a change.
func readPrecondition(ifMatch, ifNoneMatch string) (precondition, error) {
	switch {
	case ifMatch != "" && ifNoneMatch != "":
		return precondition{}, invalidHeader("If-None-Match", "send it or If-Match, not both")
	case ifNoneMatch == "*":
		return precondition{given: true, absent: true}, nil
	case ifNoneMatch != "":
		return precondition{}, invalidHeader("If-None-Match", "a change takes * alone: it then creates and never replaces")
	case ifMatch == "":
		return precondition{}, nil
	case ifMatch == "*":
		return precondition{given: true}, nil
	}
	v, ok := representedVersion(ifMatch)
	if !ok {
		return precondition{}, invalidHeader("If-Match", fmt.Sprintf("%s is not an ETag of this server; send the one you were given, such as %s, quotes included", clip(ifMatch), etagOf(3)))
	}
	return precondition{given: true, version: v}, nil
}
