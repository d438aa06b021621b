//go:build (amd64 || arm64) && !purego

package scan

import "unsafe"

// load8 returns the eight bytes b[i:i+8], the first of them lowest. The caller
// has made sure that they are there: 0 <= i and i+8 <= len(b).
//
// The compiler cannot see that and would check it twice for every word, which
// costs a fifth of the speed; these machines read words in this order and from
// any address.
func load8(b []byte, i int) uint64 {
	return *(*uint64)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i))
}
