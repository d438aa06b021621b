//go:build !linux

package servers

import (
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

func attributes(credential *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Credential: credential}
}

// removeSharedMemory leaves the segment to the system: it is 56 bytes.
func removeSharedMemory(int) {}

// alive reports whether a process exists.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// members returns the processes that are or descend from root. Where a process
// works is not known on this system.
func members(root int, _ string) []int {
	if root == 0 {
		return nil
	}
	text, err := exec.Command("ps", "-axo", "pid=,ppid=").Output()
	if err != nil {
		return []int{root}
	}
	children := make(map[int][]int)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		pid, err1 := strconv.Atoi(f[0])
		parent, err2 := strconv.Atoi(f[1])
		if err1 == nil && err2 == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	out := []int{root}
	for i := 0; i < len(out); i++ {
		out = append(out, children[out[i]]...)
	}
	return out
}
