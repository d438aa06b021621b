package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// spec says how to start a program.
type spec struct {
	name   string // of the log file and in errors
	path   string
	args   []string
	env    []string // in addition to a small environment
	signal syscall.Signal
}

// process is a program in the foreground and everything it starts. A process
// belongs to it when it descends from the first one or works in the home's
// directory: PostgreSQL's and Erlang's children leave the process group.
type process struct {
	spec spec
	home *home

	mu     sync.Mutex
	cmd    *exec.Cmd     // nil before the first start
	done   chan struct{} // closed when the first process has ended
	err    error         // how it ended; read after done
	paused bool
}

func newProcess(h *home, s spec) *process { return &process{spec: s, home: h} }

func (p *process) logFile() string { return filepath.Join(p.home.dir, p.spec.name+".log") }

// start starts the program; it must not run.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runs() {
		return fmt.Errorf("%s runs already with pid %d", p.spec.name, p.cmd.Process.Pid)
	}
	out, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close() // the process has its own
	cmd := exec.Command(p.spec.path, p.spec.args...)
	cmd.Dir = p.home.dir
	cmd.Env = append(p.home.environ(), p.spec.env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = p.home.attributes()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.spec.name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done, p.paused = cmd, done, false
	go func() {
		defer close(done)
		p.err = cmd.Wait()
	}()
	return nil
}

// runs reports whether the first process has not ended. The caller holds p.mu.
func (p *process) runs() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// PID is the number of the server's first process, 0 if it does not run.
func (p *process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.runs() {
		return 0
	}
	return p.cmd.Process.Pid
}

// Done is closed when the server's first process has ended. Each start has
// another one.
func (p *process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil { // never started
		p.done = make(chan struct{})
		close(p.done)
	}
	return p.done
}

// ended is the error of a server that ended by itself while it was waited for.
func (p *process) ended() error {
	return fmt.Errorf("%s ended: %v; its last words:\n%s", p.spec.name, p.err, p.Log())
}

// Log returns the end of what the server printed, at most 8 KiB.
func (p *process) Log() string { return tail(p.logFile(), 8<<10) }

// kill ends all processes at once, as kill -9 does, and waits until they are gone.
func (p *process) kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	root := 0
	if p.runs() {
		root = p.cmd.Process.Pid
	}
	// Stopped first, so that none starts another one while they are counted.
	members := p.signalAll(root, syscall.SIGSTOP)
	for _, pid := range members {
		_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is as good
	}
	p.paused = false
	if root != 0 {
		<-p.done
	}
	deadline := time.Now().Add(10 * time.Second)
	for _, pid := range members {
		for alive(pid) {
			if time.Now().After(deadline) {
				return fmt.Errorf("process %d of %s did not end 10 s after SIGKILL", pid, p.spec.name)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// signalAll signals every process, until no new one is found, and returns them.
func (p *process) signalAll(root int, sig syscall.Signal) []int {
	told := make(map[int]bool)
	var order []int
	for range 20 {
		found := false
		for _, pid := range members(root, p.home.dir) {
			if told[pid] {
				continue
			}
			found, told[pid], order = true, true, append(order, pid)
			_ = syscall.Kill(pid, sig)
		}
		if !found {
			break
		}
	}
	return order
}

// Pause stops all of the server's processes with SIGSTOP. Connections stay open
// and nothing answers. It fails if the server does not run.
func (p *process) Pause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.runs() {
		return fmt.Errorf("%s does not run, so it cannot be paused", p.spec.name)
	}
	p.signalAll(p.cmd.Process.Pid, syscall.SIGSTOP)
	p.paused = true
	return nil
}

// Resume lets the processes of a paused server go on with SIGCONT.
func (p *process) Resume() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.runs() {
		return fmt.Errorf("%s does not run, so it cannot be resumed", p.spec.name)
	}
	p.signalAll(p.cmd.Process.Pid, syscall.SIGCONT)
	p.paused = false
	return nil
}

// terminate asks the server to end, and kills it when it does not in time. A
// server that does not run is fine.
func (p *process) terminate(ctx context.Context) error {
	p.mu.Lock()
	if !p.runs() {
		p.mu.Unlock()
		return p.kill() // what it may have left behind
	}
	if p.paused {
		p.signalAll(p.cmd.Process.Pid, syscall.SIGCONT)
		p.paused = false
	}
	_ = p.cmd.Process.Signal(p.spec.signal) // fails only if it has ended
	done := p.done
	p.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	select {
	case <-done:
		return p.kill()
	case <-ctx.Done():
		err := fmt.Errorf("%s did not stop in time and was killed: %w", p.spec.name, context.Cause(ctx))
		return errors.Join(err, p.kill())
	}
}

// await asks until ready says nil. It fails when the process ends or ctx does, and
// then with what ready said last.
func (p *process) await(ctx context.Context, ready func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	done := p.Done()
	var last error
	for {
		try, cancelTry := context.WithTimeout(ctx, 2*time.Second)
		err := ready(try)
		cancelTry()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-done:
			return p.ended()
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w: %w; its last words:\n%s", p.spec.name, context.Cause(ctx), last, p.Log())
		}
	}
}

// tail returns the last bytes of a file, or why it cannot be read.
func tail(path string, most int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	from := max(0, info.Size()-most)
	buf := make([]byte, min(most, info.Size()))
	n, err := f.ReadAt(buf, from)
	if n == 0 && err != nil {
		return err.Error()
	}
	return string(buf[:n])
}
