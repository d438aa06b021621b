package sandbox

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/internal/payment"
)

func TestALedgerThatCannotBeWrittenStopsTheSandbox(t *testing.T) {
	s, err := Open(Options{Path: filepath.Join(t.TempDir(), "sandbox.ledger")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.alone.ledger.file.Close(); err != nil { // the disk is gone
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r := payment.Request{TenantID: "demo", OrderID: "o", Key: "k", Token: TokenOK, Amount: 1, Currency: "EUR"}
	// What is in memory is not on the disk, so nobody may see it.
	for _, ask := range []func(context.Context, payment.Request) (payment.Charge, error){s.Charge, s.Lookup, s.Void} {
		c, err := ask(ctx, r)
		if err == nil || c.State != "" || !strings.Contains(err.Error(), "until it is opened again") || errors.Is(err, payment.ErrUnavailable) {
			t.Errorf("got %+v, %v", c, err)
		}
	}
	if page, _, err := s.Charges(ctx, "", "", 10); err == nil {
		t.Errorf("it listed %+v", page)
	}
}

func TestADefectStopsTheSandboxToo(t *testing.T) {
	s, err := Open(Options{Path: filepath.Join(t.TempDir(), "sandbox.ledger")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r := payment.Request{TenantID: "demo", OrderID: "o", Key: "k", Token: TokenOK, Amount: 1, Currency: "EUR"}
	s.alone.now = func() time.Time { panic("boom") }
	if _, err := s.Charge(ctx, r); err == nil {
		t.Error("a panic was answered")
	}
	s.alone.now = time.Now
	if c, err := s.Lookup(ctx, r); err == nil {
		t.Errorf("after a panic: %+v", c)
	}
}
