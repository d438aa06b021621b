package hook

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"testing"
	"time"
)

// FuzzSignatureHeaders feeds hostile headers to every parser: none may panic or
// go over its bounds, and what one accepts must say the same when it is written
// again from what was read.
func FuzzSignatureHeaders(f *testing.F) {
	zero := hex.EncodeToString(make([]byte, 32))
	f.Add("sha256=" + zero)
	f.Add("t=1700000000,v1=" + zero + ",v0=" + zero)
	f.Add("t=1700000000, v1=" + zero + ",v1=" + zero)
	f.Add("v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4= v1a,x v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
	f.Add("v1,")
	f.Fuzz(func(t *testing.T, header string) {
		if m, ok := parseGitHub(header); ok {
			if again, ok := parseGitHub("sha256=" + hex.EncodeToString(m[:])); !ok || again != m {
				t.Fatalf("GitHub: %x becomes %x", m, again)
			}
		}
		if seconds, signatures, problem := parseStripe(header); problem == "" {
			text := "t=" + seconds
			for _, m := range signatures {
				text += ",v1=" + hex.EncodeToString(m[:])
			}
			checkAgain(t, header, signatures, func() ([]mac, string) {
				againSeconds, again, problem := parseStripe(text)
				if againSeconds != seconds {
					t.Fatalf("Stripe: time %q becomes %q", seconds, againSeconds)
				}
				return again, problem
			})
			if at := unixTime(seconds); at.Before(time.Unix(0, 0)) || at.Year() > 2262 {
				t.Fatalf("Stripe: time %v of %q cannot be kept", at, header)
			}
		} else if signatures != nil {
			t.Fatalf("Stripe: signatures beside the problem %q", problem)
		}
		if signatures, problem := parseStandard(header); problem == "" {
			text := ""
			for _, m := range signatures {
				text += "v1," + base64.StdEncoding.EncodeToString(m[:]) + " "
			}
			checkAgain(t, header, signatures, func() ([]mac, string) { return parseStandard(text) })
		} else if signatures != nil {
			t.Fatalf("Standard: signatures beside the problem %q", problem)
		}
	})
}

func checkAgain(t *testing.T, header string, signatures []mac, parse func() ([]mac, string)) {
	if len(signatures) == 0 || len(signatures) > maxSignatures {
		t.Fatalf("%d signatures from %q", len(signatures), header)
	}
	again, problem := parse()
	if problem != "" || fmt.Sprint(again) != fmt.Sprint(signatures) {
		t.Fatalf("%q gives %x, written again %x %s", header, signatures, again, problem)
	}
}
