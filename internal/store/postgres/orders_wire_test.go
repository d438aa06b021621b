package postgres

import (
	"math"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestWhatAnArrayIsMadeOfTheServerReadsBack(t *testing.T) {
	db := openTest(t)
	for _, n := range []int{0, 1, 3} {
		words := []string{"", "a \\ \"quoted\", {word}", "日本語"}[:n]
		counts := []int64{math.MinInt64, 0, math.MaxInt64}[:n]
		bytes := [][]byte{{}, {0, 1, 0xff}, []byte("x")}[:n]
		s := &statement{"echo", `SELECT count(*) FROM unnest($1::text[], $2::bigint[], $3::bytea[]) WITH ORDINALITY AS k (w, c, b, n)
			WHERE w = ($4::text[])[n] AND c = ($5::bigint[])[n] AND b = ($6::bytea[])[n]`}
		var same int64
		err := db.hot.QueryRow(t.Context(), s.sql,
			words, counts, bytes, words, counts, bytes).Scan(&same)
		if err != nil || same != int64(n) {
			t.Fatalf("through pgx: %d of %d are the same, %v", same, n, err)
		}
		err = db.holdHot(t.Context(), func(c *hotConn) error {
			r := c.pg.ExecParams(t.Context(), s.sql, [][]byte{
				texts(n, func(i int) string { return words[i] }), numbers(n, func(i int) int64 { return counts[i] }), blobs(n, func(i int) []byte { return bytes[i] }),
				texts(n, func(i int) string { return words[i] }), numbers(n, func(i int) int64 { return counts[i] }), blobs(n, func(i int) []byte { return bytes[i] }),
			}, nil, binary1(), binary1()).Read()
			if r.Err == nil {
				same = intOf(r.Rows[0][0])
			}
			return r.Err
		})
		if err != nil || same != int64(n) {
			t.Errorf("%d of %d are the same, %v", same, n, err)
		}
	}
}

func FuzzTextsAreStoredAndComeBack(f *testing.F) {
	for _, s := range []string{"", "plain", "a\x00b", "\x01", "\x01\u0101", "\x01\x00", "bad \xff\xfe utf-8", "\u0100\u01ff", "\xed\xa0\x80", "�"} {
		f.Add(s, "other")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		stored := storable(a)
		if !utf8.ValidString(stored) {
			t.Errorf("%q is stored as %q, which is not UTF-8", a, stored)
		}
		for i := range len(stored) {
			if stored[i] == 0 {
				t.Errorf("%q is stored as %q, which has a NUL", a, stored)
			}
		}
		if diff := cmp.Diff([]byte(a), []byte(original(stored))); diff != "" {
			t.Errorf("%q comes back changed:\n%s", a, diff)
		}
		if a != b && stored == storable(b) {
			t.Errorf("%q and %q are stored as the same", a, b)
		}
	})
}
