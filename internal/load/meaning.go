package load

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"
)

// meaningOf hashes what a JSON text says rather than how it is written: the
// sequence of its tokens with strings unescaped and numbers as written. Two
// texts that differ in white space or in the escapes of strings have the same
// meaning; the order of members, repeated members and every digit count.
func meaningOf(text []byte) (uint64, error) {
	if !json.Valid(text) {
		return 0, errors.New("not JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	d := xxhash.New()
	var head [9]byte
	write := func(kind byte, s string) {
		head[0] = kind
		binary.LittleEndian.PutUint64(head[1:], uint64(len(s)))
		_, _ = d.Write(head[:])
		_, _ = d.WriteString(s)
	}
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return d.Sum64(), nil
		}
		if err != nil {
			return 0, fmt.Errorf("not JSON: %w", err)
		}
		switch v := tok.(type) {
		case json.Delim:
			write('d', v.String())
		case string:
			write('s', v)
		case json.Number:
			write('n', v.String())
		case bool:
			write('b', fmt.Sprint(v))
		case nil:
			write('0', "")
		}
	}
}
