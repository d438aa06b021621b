package memindex

import "math/bits"

const (
	pointerBytes = 8
	sliceBytes   = 24
)

// allocated is about what n bytes take of the heap: the allocator hands out sizes in
// steps of an eighth at most, whole pages beyond 32 KiB, and writes a word before
// what is larger than 512 bytes and holds pointers.
func allocated(n int) int64 {
	switch {
	case n > 32<<10:
		return int64(n+8191) &^ 8191
	case n > 512:
		n += pointerBytes
	case n <= 32:
		return int64(n+7) &^ 7
	case n <= 256:
		return int64(n+15) &^ 15
	}
	step := int64(1) << (bits.Len(uint(n-1)) - 4)
	return (int64(n) + step - 1) &^ (step - 1)
}
