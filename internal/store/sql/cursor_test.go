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
