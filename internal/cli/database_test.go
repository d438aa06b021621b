package cli

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/internal/config"
)

func TestMigrateSaysWhatItApplied(t *testing.T) {
	i := invocation{deps: Deps{MigrateUp: func(context.Context, *config.Config) ([]Migration, error) {
		return []Migration{{Version: 2, Name: "orders"}}, nil
	}}}
	if r := i.run(t, "migrate", "up"); r.Code != ExitOK || r.Out != "applied 2 orders\n" {
		t.Errorf("got %+v", r)
	}
	i.deps.MigrateUp = func(context.Context, *config.Config) ([]Migration, error) { return nil, nil }
	if r := i.run(t, "migrate", "up"); r.Code != ExitOK || r.Out != "The schema is up to date.\n" {
		t.Errorf("got %+v", r)
	}
	// What was applied before a failure is said too.
	i.deps.MigrateUp = func(context.Context, *config.Config) ([]Migration, error) {
		return []Migration{{Version: 2, Name: "orders"}}, errors.New("the disk is full")
	}
	if r := i.run(t, "migrate", "up"); r.Code != ExitFailure || r.Out != "applied 2 orders\n" || r.Err != "millrace: the disk is full\n" {
		t.Errorf("got %+v", r)
	}
}

func TestMigrateStatusShowsWhatIsPending(t *testing.T) {
	i := invocation{deps: Deps{MigrateStatus: func(context.Context, *config.Config) ([]Migration, error) {
		return []Migration{{1, "main", time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}, {Version: 2, Name: "events"}}, nil
	}}}
	want := "VERSION  NAME    APPLIED\n1        main    2026-11-22T10:00:00Z\n2        events  pending\n"
	if r := i.run(t, "migrate", "status"); r.Code != ExitOK || r.Out != want {
		t.Errorf("got %+v, want %q", r, want)
	}
}

func TestDoctorFailsOnAFailureAndNotOnAWarning(t *testing.T) {
	findings := []Finding{
		{"postgres", "version", GradeOK, "15.18", ""},
		{"postgres", "max_wal_size", GradeWarning, "1GB", "set it to 4GB or more"},
	}
	i := invocation{deps: Deps{Doctor: func(context.Context, *config.Config) []Finding { return findings }}}
	r := i.run(t, "doctor")
	if r.Code != ExitOK || !strings.Contains(r.Out, "postgres, max_wal_size: set it to 4GB or more\n") || !strings.HasSuffix(r.Out, "0 failures, 1 warning.\n") {
		t.Errorf("got %+v", r)
	}
	findings = append(findings, Finding{"redis", "reachable", GradeFailure, "connection refused", "start it"})
	if r := i.run(t, "doctor"); r.Code != ExitFailure || !strings.Contains(r.Out, "redis, reachable: start it\n") {
		t.Errorf("got %+v", r)
	}
}

func TestWALDrainSaysHowFarItCame(t *testing.T) {
	data := makeLog(t, 1)
	answer := DrainProgress{Records: 7, Done: 7}
	i := invocation{deps: Deps{DrainLog: func(_ context.Context, _ *config.Config, log, dataDir string, _ func(DrainProgress)) (DrainProgress, error) {
		if log != filepath.Join(data, "wal") || dataDir != data {
			t.Errorf("drained %s of %s", log, dataDir)
		}
		return answer, nil
	}}}
	if r := i.run(t, "wal", "drain", data); r.Code != ExitOK || !strings.HasPrefix(r.Out, "7 records of the log in ") {
		t.Errorf("got %+v", r)
	}
	answer = DrainProgress{}
	if r := i.run(t, "wal", "drain", data); r.Code != ExitOK || !strings.Contains(r.Out, "has all of the log") {
		t.Errorf("got %+v", r)
	}
}

func TestASecretOnTheCommandLineIsRefused(t *testing.T) {
	r := invocation{}.run(t, "doctor", "--set", "store.postgres.dsn=postgres://u:hunter2@h/d")
	if r.Code != ExitUsage || strings.Contains(r.Err, "hunter2") || !strings.Contains(r.Err, "MILLRACE_STORE__POSTGRES__DSN_FILE") {
		t.Errorf("got %+v", r)
	}
}
