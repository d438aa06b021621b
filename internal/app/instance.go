package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/google/uuid"

	"millrace/internal/config"
)

// instanceName is the file in the data directory with the name that this instance
// gave itself.
const instanceName = "instance"

// instance returns this instance's name among others. One that is not configured
// is made up and kept, so that after a restart it finds again what was its own.
// The caller holds the directory's lock.
func (d *dataDir) instance(cfg *config.Config) (string, error) {
	if cfg.Instance != "" {
		return cfg.Instance, nil
	}
	text, err := os.ReadFile(d.file(instanceName))
	if name := strings.TrimSpace(string(text)); err == nil && name != "" {
		return name, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading this instance's name: %w", err)
	}
	name := uuid.NewString()
	if err := os.WriteFile(d.file(instanceName), []byte(name+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keeping this instance's name: %w", err)
	}
	return name, nil
}
