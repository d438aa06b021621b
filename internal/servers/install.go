package servers

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed install.sh
var installScript string

// installTimeout bounds the download and installation of one server.
const installTimeout = 10 * time.Minute

// systemPath is where programs are that are not in every user's PATH.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func searchPath() string {
	if p := os.Getenv("PATH"); p != "" {
		return p + ":" + systemPath
	}
	return systemPath
}

// lookPath finds a program in PATH and in the system's folders.
func lookPath(name string) (string, bool) {
	for _, dir := range filepath.SplitList(searchPath()) {
		path := filepath.Join(dir, name)
		if executable(path) {
			return path, true
		}
	}
	return "", false
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// findOrInstall returns what find finds, and installs the server first if it finds
// nothing. name is one that install.sh knows.
func findOrInstall(ctx context.Context, o Options, name string, find func() (string, bool)) (string, error) {
	if path, ok := find(); ok {
		return path, nil
	}
	var path string
	err := exclusively(ctx, "install", func() error {
		var ok bool
		if path, ok = find(); ok { // another process was faster
			return nil
		}
		o.logger().Info("installing a server with apt-get", "server", name)
		if err := install(ctx, name); err != nil {
			return err
		}
		if path, ok = find(); !ok {
			return fmt.Errorf("%s was installed, yet its program is not found in %s", name, searchPath())
		}
		return nil
	})
	return path, err
}

// Install installs servers by name (postgresql, redis, rabbitmq, nginx) if they are
// not there. It needs root, or sudo without a password or with a terminal.
func Install(ctx context.Context, names ...string) error {
	return exclusively(ctx, "install", func() error { return install(ctx, names...) })
}

func install(ctx context.Context, names ...string) error {
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", installScript, "install.sh"}, names...)...)
	cmd.Stdin = os.Stdin
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		text := out.Bytes()
		return fmt.Errorf("cannot install %s: %w; install it by hand (scripts/install-servers.sh %s, as root) and try again. What apt-get said:\n%s",
			strings.Join(names, ", "), err, strings.Join(names, " "), text[max(0, len(text)-4096):])
	}
	return nil
}
