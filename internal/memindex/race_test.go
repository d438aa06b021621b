//go:build race

package memindex_test

// manyRecords is small where the race detector makes everything ten times slower.
const manyRecords = 100_000
