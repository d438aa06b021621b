package servers

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// toolTimeout bounds initdb and pg_basebackup.
const toolTimeout = 2 * time.Minute

// initialize makes the data directory. The work of initdb is done once for each
// version and user and then copied.
func (p *Postgres) initialize(ctx context.Context) error {
	template, err := p.template(ctx)
	if err != nil {
		return err
	}
	if err := copyTree(template, p.data); err != nil {
		return fmt.Errorf("copy the empty data of PostgreSQL: %w", err)
	}
	return p.home.own(p.data)
}

// template returns a directory with what initdb makes.
func (p *Postgres) template(ctx context.Context) (string, error) {
	version, err := exec.CommandContext(ctx, filepath.Join(p.bin, "postgres"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("postgres --version: %w", err)
	}
	base, err := sharedDir("postgres")
	if err != nil {
		return "", err
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(p.bin + "\n" + string(version)))
	template := filepath.Join(base, "empty-"+strconv.FormatUint(hash.Sum64(), 16))
	complete := func() bool {
		_, err := os.Stat(filepath.Join(template, "PG_VERSION"))
		return err == nil
	}
	if complete() {
		return template, nil
	}
	return template, exclusively(ctx, "postgres-template", func() error {
		if complete() {
			return nil
		}
		fresh, err := p.home.mkdir("template")
		if err != nil {
			return err
		}
		defer os.RemoveAll(fresh)
		if err := p.tool(ctx, "initdb", nil, "-D", fresh, "-U", postgresUser, "--encoding=UTF8", "--no-locale", "--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile="+filepath.Join(p.home.dir, "password"), "--no-sync"); err != nil {
			return err
		}
		return publish(fresh, template)
	})
}

// publish copies a directory to a place where it is whole as soon as it is there.
func publish(from, to string) error {
	partial, err := os.MkdirTemp(filepath.Dir(to), "partial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(partial)
	copied := filepath.Join(partial, "data")
	if err := copyTree(from, copied); err != nil {
		return err
	}
	return os.Rename(copied, to)
}

// tool runs one of PostgreSQL's programs to its end, as the server's user.
func (p *Postgres) tool(ctx context.Context, name string, env []string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, name), args...)
	cmd.Dir = p.home.dir
	cmd.Env = append(p.home.environ(), env...)
	cmd.SysProcAttr = p.home.attributes()
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// configure writes the settings, and who may connect.
func (p *Postgres) configure(data string, port int) error {
	settings := p.o.settings()
	if p.o.Tuned && p.version() >= 15 {
		settings["wal_compression"] = "lz4" // a fraction of the work of "on", which is pglz
	}
	settings["listen_addresses"] = "127.0.0.1"
	settings["port"] = strconv.Itoa(port)
	settings["unix_socket_directories"] = p.home.dir
	host := "host"
	if c := p.o.TLS; c != nil {
		host = "hostssl"
		key, err := p.home.copyIn(c.KeyFile, "server.key")
		if err != nil {
			return err
		}
		cert, err := p.home.copyIn(c.CertFile, "server.crt")
		if err != nil {
			return err
		}
		ca, err := p.home.copyIn(c.CAFile, "ca.crt")
		if err != nil {
			return err
		}
		maps.Copy(settings, map[string]string{"ssl": "on", "ssl_key_file": key, "ssl_cert_file": cert, "ssl_ca_file": ca})
	}
	var text strings.Builder
	text.WriteString("# Written at each start by the program that starts this private server.\n")
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	// The socket is in a directory of the server's user alone.
	access := "local all all trust\nlocal replication all trust\n" +
		host + " all all 127.0.0.1/32 scram-sha-256\n" + host + " replication all 127.0.0.1/32 scram-sha-256\n"
	rel, err := filepath.Rel(p.home.dir, data)
	if err != nil {
		return err
	}
	_, err1 := p.home.write(filepath.Join(rel, "postgresql.conf"), text.String())
	_, err2 := p.home.write(filepath.Join(rel, "pg_hba.conf"), access)
	return errors.Join(err1, err2)
}

// isDuplicateDatabase says that a database exists already.
func isDuplicateDatabase(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == "42P04"
}
