package servers

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

//go:embed guard.sh
var guardScript string

// home is what a server has from its start to Stop, whether it runs or not: its
// directory, its ports and the guard that clears up if this process dies.
type home struct {
	dir        string
	temporary  bool
	credential *syscall.Credential // nil: as this process
	user       string              // whose it is; empty: as this process

	mu    sync.Mutex
	ports []*port
	guard *exec.Cmd
	pipe  io.Closer
	word  io.Writer
}

// newHome makes the directory, to be used by the given user of the system when
// this process is root and the user exists, and starts the guard.
func newHome(o Options, kind, runAs string) (*home, error) {
	h := &home{dir: o.Dir, temporary: o.Dir == ""}
	var err error
	if h.temporary {
		h.dir, err = os.MkdirTemp("", "millrace-"+kind+"-")
	} else if h.dir, err = filepath.Abs(o.Dir); err == nil {
		err = os.MkdirAll(h.dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("directory of %s: %w", kind, err)
	}
	// Processes tell where they work without symbolic links.
	if h.dir, err = filepath.EvalSymlinks(h.dir); err != nil {
		return nil, fmt.Errorf("directory of %s: %w", kind, err)
	}
	if err := errors.Join(h.become(runAs), h.startGuard()); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// become finds the user and gives it the directory.
func (h *home) become(runAs string) error {
	if runAs == "" || os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup(runAs)
	if err != nil {
		return fmt.Errorf("user %s, whom the program's package should have made: %w", runAs, err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("user %s: %w", runAs, err)
	}
	if parent, ok := Reachable(filepath.Dir(h.dir)); !ok {
		return fmt.Errorf("user %s cannot come to %s, because %s is closed to others: use another directory, for example below /var/tmp, or run as an ordinary user", runAs, h.dir, parent)
	}
	h.user = runAs
	h.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return h.own(h.dir)
}

// Reachable reports whether every user may pass through a directory and those
// above it, and else which one is closed: as root, PostgreSQL, RabbitMQ and nginx
// run as users of their own, who must come to their directories.
func Reachable(dir string) (string, bool) {
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return dir, false
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", true
		}
		dir = up
	}
}

// own gives a file or a directory with all in it to the server's user.
func (h *home) own(path string) error {
	if h.credential == nil {
		return nil
	}
	return filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, int(h.credential.Uid), int(h.credential.Gid))
	})
}

// mkdir makes a directory below the home that only the server's user may enter.
func (h *home) mkdir(name string) (string, error) {
	path := filepath.Join(h.dir, name)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", err
	}
	return path, h.own(path)
}

// write writes a file below the home that only the server's user may read.
func (h *home) write(name, text string) (string, error) {
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", err
	}
	return path, h.own(path)
}

// secret returns the secret that is kept in a file of the home, made if it is not
// there yet.
func (h *home) secret(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(h.dir, name))
	if err == nil && len(strings.TrimSpace(string(text))) > 0 {
		return strings.TrimSpace(string(text)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	s := randomSecret()
	_, err = h.write(name, s+"\n")
	return s, err
}

// reserve reserves a port until close; want 0 is any.
func (h *home) reserve(want int) (int, error) {
	p, err := reservePort(want)
	if err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ports = append(h.ports, p)
	return p.number, nil
}

// environ is the environment of the server's processes. It is small: what this
// process was given may hold secrets, or change what the server does.
func (h *home) environ() []string {
	return []string{"PATH=" + searchPath(), "HOME=" + h.dir, "TMPDIR=" + h.dir, "LANG=C", "LC_ALL=C", "TZ=UTC"}
}

func (h *home) attributes() *syscall.SysProcAttr { return attributes(h.credential) }

// startGuard starts the shell that clears up when this process dies.
func (h *home) startGuard() error {
	remove := "keep"
	if h.temporary {
		remove = "remove"
	}
	// The shell's own name for its script is its argument 0.
	cmd := exec.Command("/bin/sh", "-c", guardScript, "millrace-guard", h.dir, remove)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + searchPath()}
	// A session of its own: what kills this process and its group spares the guard.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the guard of %s: %w", h.dir, err)
	}
	h.guard, h.pipe, h.word = cmd, pipe, pipe
	return nil
}

// close dismisses the guard, frees the ports and removes a temporary directory.
// No process of the server may run any more. It may be called twice.
func (h *home) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	if h.guard != nil {
		_, err := io.WriteString(h.word, "done\n")
		errs = append(errs, err, h.pipe.Close())
		if err := h.guard.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("guard of %s: %w", h.dir, err))
		}
		h.guard = nil
	}
	for _, p := range h.ports {
		p.release()
	}
	h.ports = nil
	if h.temporary {
		errs = append(errs, os.RemoveAll(h.dir))
	}
	return errors.Join(errs...)
}

// copyIn copies a file into the home, for the server's user alone.
func (h *home) copyIn(from, name string) (string, error) {
	text, err := os.ReadFile(from)
	if err != nil {
		return "", err
	}
	return h.write(name, string(text))
}
