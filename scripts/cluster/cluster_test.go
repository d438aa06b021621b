package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/internal/servers"
)

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !holds() {
		if !sleep(ctx, 20*time.Millisecond) {
			t.Fatal("not within a minute: " + what)
		}
	}
}

// ask calls the API and returns status and body.
func ask(t *testing.T, method, url, token, body string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(text)
}

func TestAClusterComesUpLosesAnInstanceAndGoesDown(t *testing.T) {
	// Not t.TempDir: the servers' users must be able to come there.
	base, err := os.MkdirTemp("", "millrace-cluster-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	port, release, err := servers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	release()
	dir := filepath.Join(base, "c")
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"DIR": dir, "PORT": fmt.Sprint(port)}
	command := func(name string) (string, error) {
		var out bytes.Buffer
		err := run(context.WithoutCancel(t.Context()), []string{name}, func(k string) string { return env[k] }, &out)
		return out.String(), err
	}
	t.Cleanup(func() { _, _ = command("down") }) // when the test fails early
	text, err := command("up")
	if err != nil {
		t.Fatal(err)
	}
	front := fmt.Sprintf("http://127.0.0.1:%d", port)
	if !strings.Contains(text, front) || !strings.Contains(text, "kill -9") {
		t.Errorf("what up printed lacks the front door or the way to kill an instance:\n%s", text)
	}
	if _, err := command("up"); err == nil || !strings.Contains(err.Error(), "up already") {
		t.Errorf("a second up: %v", err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(raw))

	c, err := open(func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	victim := c.readPID("millrace-2")
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		event := fmt.Sprintf(`[{"type":"cluster.test","payload":{"number":%d}}]`, i)
		eventually(t, "an event is accepted", func() bool {
			status, _ := ask(t, http.MethodPost, front+"/events", token, event)
			return status == http.StatusAccepted
		})
	}
	eventually(t, "the killed instance runs again", func() bool {
		pid := c.readPID("millrace-2")
		return pid != victim && pid != 0
	})
	s, err := c.readState()
	if err != nil {
		t.Fatal(err)
	}
	// Each instance sees what all of them have accepted.
	for _, i := range s.Instances {
		eventually(t, i.Name+" sees all events", func() bool {
			status, body := ask(t, http.MethodGet, i.URL+"/events?type=cluster.test&limit=100", token, "")
			return status == http.StatusOK && strings.Count(body, `"number"`) >= 20
		})
	}
	// The one that was started again is ready when it has loaded what it answers from.
	eventually(t, "status shows all ready", func() bool {
		text, err := command("status")
		return err == nil && strings.Count(text, "is ready") == instanceCount
	})
	if text, err := command("down"); err != nil {
		t.Errorf("down: %v\n%s", err, text)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	if left := worksBelow(t, dir); len(left) != 0 {
		t.Errorf("processes still run: %v", left)
	}
}

// worksBelow are the processes whose program or working directory is below dir.
func worksBelow(t *testing.T, dir string) (left []string) {
	t.Helper()
	for _, pattern := range []string{"/proc/[0-9]*/cwd", "/proc/[0-9]*/exe"} {
		links, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, dir+"/") {
				left = append(left, link+" -> "+target)
			}
		}
	}
	return left
}

func TestWhatCannotBeIsToldInWords(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		port string
		want string
	}{
		"no command":      {nil, "", "usage"},
		"another command": {[]string{"sideways"}, "", "usage"},
		"no port":         {[]string{"up"}, "eighty", "PORT=eighty is no port"},
		"a port too high": {[]string{"up"}, "70000", "PORT=70000 is no port"},
	} {
		t.Run(name, func(t *testing.T) {
			env := func(k string) string {
				return map[string]string{"PORT": c.port, "DIR": t.TempDir()}[k]
			}
			err := run(t.Context(), c.args, env, io.Discard)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestAShellReadsBackWhatIsWrittenForIt(t *testing.T) {
	got := shellVariables([]string{"A=plain", "B=it's here", "C=a=b"})
	want := "A='plain'\nB='it'\\''s here'\nC='a=b'\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheFrontDoorsPortIsAskedForBeforeAnythingIsBuilt(t *testing.T) {
	port, release, err := servers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	release()
	server := &http.Server{Addr: fmt.Sprintf("127.0.0.1:%d", port), ReadHeaderTimeout: time.Second}
	go func() { _ = server.ListenAndServe() }()
	t.Cleanup(func() { _ = server.Close() })
	c := &cluster{dir: t.TempDir(), port: port}
	eventually(t, "the port is taken", func() bool { return c.checkPort() != nil })
	if err := c.up(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "is taken") {
		t.Errorf("got %v", err)
	}
}
