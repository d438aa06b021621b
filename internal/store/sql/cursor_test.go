package sql

import (
	"errors"
	"strings"
	"testing"

	"millrace/internal/deadletter"
)

func FuzzLetterCursor(f *testing.F) {
	f.Add(letterCursor{receivedNs: 5, id: "x"}.String(), int64(5), "x")
	f.Add("", int64(-1), strings.Repeat("long", 100))
	f.Fuzz(func(t *testing.T, text string, ns int64, id string) {
		if c, err := parseLetterCursor(text); err == nil && c.String() != text {
			t.Errorf("%q is taken for %+v, which is written %q", text, c, c.String())
		} else if err != nil && !errors.Is(err, deadletter.ErrBadCursor) {
			t.Errorf("%q: error %v, want deadletter.ErrBadCursor", text, err)
		}
		if len(id) > 256 {
			return
		}
		want := letterCursor{receivedNs: ns, id: id}
		if got, err := parseLetterCursor(want.String()); err != nil || got != want {
			t.Errorf("%+v comes back as %+v, error %v", want, got, err)
		}
	})
}

func FuzzTextCursor(f *testing.F) {
	f.Add(packCursor(productCursor, "tee-black-m"), "tee-black-m")
	f.Add("", strings.Repeat("long", 100))
	f.Fuzz(func(t *testing.T, text, after string) {
		if got, ok := unpackCursor(productCursor, text); ok && packCursor(productCursor, got) != text {
			t.Errorf("%q is taken for %q, which is written %q", text, got, packCursor(productCursor, got))
		}
		if len(after) > 512 {
			return
		}
		if got, ok := unpackCursor(productCursor, packCursor(productCursor, after)); !ok || got != after {
			t.Errorf("%q comes back as %q, %v", after, got, ok)
		}
		if _, ok := unpackCursor(stockCursor, packCursor(productCursor, after)); ok {
			t.Errorf("the cursor of a product after %q is taken for one of stock", after)
		}
	})
}
