package servers

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// natsModule is in go.mod, because Millrace embeds the server as a library.
const natsModule = "github.com/nats-io/nats-server/v2"

// natsBinary returns the program of the version that Millrace is built with. It is
// built once, from the module cache.
func natsBinary(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", natsModule).Output()
	if err != nil {
		return "", fmt.Errorf("version of %s: %w; run this from within Millrace's source, with go in PATH", natsModule, err)
	}
	version := strings.TrimSpace(string(out))
	dir, err := sharedDir("nats")
	if err != nil {
		return "", err
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(runtime.Version() + runtime.GOOS + runtime.GOARCH))
	path := filepath.Join(dir, "nats-server-"+version+"-"+strconv.FormatUint(hash.Sum64(), 16))
	if executable(path) {
		return path, nil
	}
	return path, exclusively(ctx, "nats-build", func() error {
		if executable(path) {
			return nil
		}
		partial := path + ".partial"
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", partial, natsModule)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.WaitDelay = 5 * time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s %s: %w\n%s", natsModule, version, err, out)
		}
		return os.Rename(partial, path)
	})
}
