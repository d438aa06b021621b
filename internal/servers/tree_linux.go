package servers

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// attributes makes the processes of a server a session of their own, so that a
// Ctrl-C in the terminal does not reach them and they have no terminal, and has the
// kernel kill the first one when the process that started it dies.
func attributes(credential *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, Credential: credential}
}

// removeSharedMemory removes a segment of System V shared memory, which nothing
// else does after a kill. It may be gone already.
func removeSharedMemory(id int) { _, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) }

type processState struct {
	parent   int
	state    byte // as in /proc/PID/stat: R, S, T, Z, ...
	terminal bool // it has a controlling terminal
}

func (s processState) dead() bool { return s.state == 'Z' || s.state == 'X' }

func stateOf(pid int) (processState, bool) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return processState{}, false
	}
	// The second field is the name in parentheses and may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 5 {
		return processState{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	return processState{parent: parent, state: fields[0][0], terminal: fields[4] != "0"}, err == nil
}

// alive reports whether a process exists and has not ended.
func alive(pid int) bool {
	s, ok := stateOf(pid)
	return ok && !s.dead()
}

// members returns the living processes that are or descend from root (none if 0)
// and those that work in dir and have no terminal: a person's shell may be there too.
func members(root int, dir string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	self := os.Getpid()
	parents := make(map[int]int)
	var background []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == self {
			continue
		}
		if s, ok := stateOf(pid); ok && !s.dead() {
			parents[pid] = s.parent
			if !s.terminal {
				background = append(background, pid)
			}
		}
	}
	var out []int
	for _, pid := range background {
		if descends(pid, root, parents) || worksIn(pid, dir) {
			out = append(out, pid)
		}
	}
	return out
}

func descends(pid, root int, parents map[int]int) bool {
	for range 64 { // deeper than any server, and a bound
		if pid == root {
			return root != 0
		}
		parent, ok := parents[pid]
		if !ok {
			return false
		}
		pid = parent
	}
	return false
}

func worksIn(pid int, dir string) bool {
	cwd, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/cwd")
	return err == nil && (cwd == dir || strings.HasPrefix(cwd, dir+"/"))
}
