package postgres

import (
	"testing"

	"millrace/internal/lease"
	"millrace/internal/store/storetest"
)

func TestLeasesConform(t *testing.T) {
	storetest.Leases(t, func(t testing.TB) lease.Store { return openTest(t).Leases() })
}
