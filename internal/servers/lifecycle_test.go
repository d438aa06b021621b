package servers_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/servers"
)

// childVariable makes the test binary start servers and wait to be killed.
const childVariable = "MILLRACE_SERVERS_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		child()
	}
	os.Exit(m.Run())
}

// child starts servers, prints the directory of each one's first process, and
// waits for its end.
func child() {
	ctx := context.Background()
	postgres, err1 := servers.StartPostgres(ctx, servers.PostgresOptions{})
	redis, err2 := servers.StartRedis(ctx, servers.RedisOptions{})
	nginx, err3 := servers.StartNginx(ctx, servers.NginxOptions{Upstreams: []string{redis.Addr()}})
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	for _, pid := range []int{postgres.PID(), redis.PID(), nginx.PID()} {
		fmt.Println(pid)
	}
	fmt.Println("ready", postgres.Addr())
	select {}
}

// startChild starts this binary as a process that starts servers. It returns the
// pids of all processes of those servers and their directories.
func startChild(t *testing.T) (cmd *osexec.Cmd, pids []int, dirs []string, addr string) {
	t.Helper()
	cmd = osexec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if ready, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			addr = ready
			break
		}
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatalf("the child says: %s", lines.Text())
		}
		dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		if err != nil {
			t.Fatal(err)
		}
		dir = strings.TrimSuffix(dir, "/data") // PostgreSQL works in its data
		dirs = append(dirs, dir)
	}
	if addr == "" {
		t.Fatalf("the child ended early: %v", lines.Err())
	}
	return cmd, processesIn(t, dirs...), dirs, addr
}

// processesIn are all processes that work in one of the directories.
func processesIn(t *testing.T, dirs ...string) (pids []int) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		cwd, err := os.Readlink(link)
		if err != nil {
			continue // it has ended
		}
		for _, dir := range dirs {
			if cwd == dir || strings.HasPrefix(cwd, dir+"/") {
				pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("not within 30 s: " + what)
		}
	}
}

func TestNothingOutlivesAProcessThatIsKilled(t *testing.T) {
	t.Parallel()
	cmd, pids, dirs, _ := startChild(t)
	if len(pids) < 8 { // PostgreSQL alone has six
		t.Fatalf("only %d processes are known: %v", len(pids), pids)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all processes end", func() bool { return len(processesIn(t, dirs...)) == 0 })
	for _, dir := range dirs {
		eventually(t, dir+" is removed", func() bool {
			_, err := os.Stat(dir)
			return os.IsNotExist(err)
		})
	}
}

func TestProcessesThatStartServersAtOnceDoNotCollide(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := make(map[string]bool)
	t.Run("all", func(t *testing.T) {
		for i := range 3 {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				_, _, dirs, addr := startChild(t)
				mu.Lock()
				defer mu.Unlock()
				for _, key := range append(dirs, addr) {
					if seen[key] {
						t.Errorf("%s belongs to two servers", key)
					}
					seen[key] = true
				}
			})
		}
	})
}

func TestAStoppedServerLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p, err := servers.StartPostgres(ctx, servers.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	dir = strings.TrimSuffix(dir, "/data")
	for range 2 { // twice is fine
		if err := p.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if pids := processesIn(t, dir); len(pids) != 0 {
		t.Errorf("processes %v still run", pids)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	if c, err := net.Dial("tcp", p.Addr()); err == nil {
		_ = c.Close()
		t.Error("somebody still listens")
	}
	if err := p.Restart(ctx); err == nil {
		t.Error("a stopped server was restarted")
	}
}

func TestAServerGoesOnWithItsDataInADirectoryThatIsGiven(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	// Not t.TempDir: PostgreSQL's user must be able to come there.
	dir, err := os.MkdirTemp("", "millrace-kept-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	o := servers.PostgresOptions{Options: servers.Options{Dir: filepath.Join(dir, "postgres")}}
	var password string
	for round := range 2 {
		p, err := servers.StartPostgres(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		c := connect(t, p.DSN())
		if round == 0 {
			exec(t, c, "CREATE TABLE kept AS SELECT 1")
			password = p.Password()
		} else if n := count(t, c); n != 1 || p.Password() != password {
			t.Errorf("%d rows and password kept %v, want 1 row and the same password", n, p.Password() == password)
		}
		if err := p.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAPortThatIsTakenIsToldBeforeAnythingIsStarted(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	_, err = servers.StartRedis(testContext(t), servers.RedisOptions{Options: servers.Options{Port: port}})
	if err == nil || !strings.Contains(err.Error(), strconv.Itoa(port)) {
		t.Errorf("got %v, want an error that names port %d", err, port)
	}
}

func TestADirectoryThatTheServersUserCannotReachIsToldAsSuch(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // an ordinary user's servers run as that user, who can
	}
	closed, err := os.MkdirTemp("", "millrace-closed-") // mode 0700
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(closed) })
	_, err = servers.StartPostgres(testContext(t), servers.PostgresOptions{Options: servers.Options{Dir: filepath.Join(closed, "postgres")}})
	if err == nil || !strings.Contains(err.Error(), closed) {
		t.Errorf("got %v, want an error that names %s", err, closed)
	}
}
