package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// state is what the supervisor tells others in cluster.json. It holds no secret.
type state struct {
	SupervisorPID int        `json:"supervisorPid"`
	Ready         bool       `json:"ready"`
	Front         string     `json:"front"` // URL
	Instances     []instance `json:"instances"`
	// Ports that must be the same when the data is used again.
	Ports ports `json:"ports"`
	// Data is where the backing servers keep theirs: the cluster's directory unless
	// their users cannot come there.
	Data string `json:"data"`
}

type ports struct {
	Postgres int `json:"postgres"`
	Replica  int `json:"replica"`
}

// instance is one Millrace.
type instance struct {
	Name  string `json:"name"`
	URL   string `json:"url"`
	Admin string `json:"admin"` // URL
}

func (c *cluster) statePath() string { return c.in("cluster.json") }

// readState returns a zero state if there is none.
func (c *cluster) readState() (s state, err error) {
	text, err := os.ReadFile(c.statePath())
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w", c.statePath(), err)
	}
	return s, nil
}

// writeState replaces the file at once, so that readers find a whole one.
func (c *cluster) writeState(s state) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	partial := c.statePath() + ".partial"
	if err := os.WriteFile(partial, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(partial, c.statePath())
}

// supervisorRuns reports whether a process is this cluster's supervisor: a number
// alone may belong to another by now.
func (c *cluster) supervisorRuns(pid int) bool {
	if pid <= 0 || syscall.Kill(pid, 0) != nil {
		return false
	}
	exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	if err != nil {
		return true // not known on this system
	}
	return strings.TrimSuffix(exe, " (deleted)") == c.binary("cluster")
}

// writePID writes the file that names a process, for those who want to kill it.
func (c *cluster) writePID(name string, pid int) error {
	return os.WriteFile(c.in(name+".pid"), []byte(strconv.Itoa(pid)+"\n"), 0o644)
}

// readPID is 0 if there is none.
func (c *cluster) readPID(name string) int {
	text, err := os.ReadFile(c.in(name + ".pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

func (c *cluster) binary(name string) string { return c.in("bin", name) }
