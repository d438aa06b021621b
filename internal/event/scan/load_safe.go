//go:build !(amd64 || arm64) || purego

package scan

import "encoding/binary"

// load8 returns the eight bytes b[i:i+8], the first of them lowest.
func load8(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i:]) }
