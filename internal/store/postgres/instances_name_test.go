package postgres

import (
	"errors"
	"log/slog"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestASecondProcessOfOneNameIsRefused(t *testing.T) {
	dsn := freshDatabase(t)
	openAt(t, Options{DSN: dsn, Instance: "twin", MaxConns: minConns})
	second, err := Open(within(t, time.Minute), Options{DSN: dsn, Instance: "twin", MaxConns: minConns})
	if err == nil {
		second.Close()
	}
	if !errors.Is(err, ErrNameTaken) {
		t.Errorf("Open: %v, want ErrNameTaken", err)
	}
}

// One that was cut off when the second looked for it is told.
func TestAProcessWhoseNameWasTakenIsTold(t *testing.T) {
	var log logged
	db := openAt(t, Options{DSN: freshDatabase(t), Instance: "twin", MaxConns: minConns, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	exec(t, db, `UPDATE instances SET started_ns = started_ns + 1`)
	eventually(t, 10*time.Second, "it says so", func() bool { return log.count("another process runs under this instance's name") == 1 })
}

// spoke writes the heartbeat of a process that has just been killed.
func spoke(t testing.TB, dsn, instance string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	now := time.Now().UnixNano()
	if _, err := conn.Exec(t.Context(), beatStatement, instance, now-1, now, "{}"); err != nil {
		t.Fatal(err)
	}
}

func TestAProcessThatFollowsAKilledOneNeedNotWait(t *testing.T) {
	dsn := freshDatabase(t)
	spoke(t, dsn, "again")
	began := time.Now()
	openAt(t, Options{DSN: dsn, Instance: "again", MaxConns: minConns})
	if took := time.Since(began); took >= nameSilence {
		t.Errorf("it took %v to open", took)
	}
}

func TestAProcessWaitsForOneWhoseConnectionsAreStillThere(t *testing.T) {
	dsn := freshDatabase(t)
	spoke(t, dsn, "cut-off")
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("application_name", applicationName("cut-off"))
	u.RawQuery = q.Encode()
	conn, err := pgx.Connect(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	began := time.Now()
	openAt(t, Options{DSN: dsn, Instance: "cut-off", MaxConns: minConns})
	if took := time.Since(began); took < nameSilence {
		t.Errorf("it took only %v to open", took)
	}
}
