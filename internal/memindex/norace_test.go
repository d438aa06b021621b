//go:build !race

package memindex_test

const manyRecords = 1_000_000
