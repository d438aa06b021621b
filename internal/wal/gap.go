package wal

// Gap is a range of sequences [From, UpTo) that are lost.
type Gap struct {
	From, UpTo uint64
}
