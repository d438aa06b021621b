package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// updatesPerSecond is how many products the writer changes a second, a quarter of
// them every quarter of a second: the command sends a request when it has 250 lines.
const (
	updatesPerSecond = 1000
	updatesAtOnce    = 250
)

// readsWrite measures what readers lose when somebody writes.
func readsWrite(ctx context.Context, b *bench, r *result) (err error) {
	t, err := b.serve(ctx, r)
	if err != nil {
		return err
	}
	defer ended(&err, t.stop, ctx)
	if err := b.importFile(ctx, r, t, "products", productsFile, readProducts); err != nil {
		return err
	}
	var alone, beside, lost, written, cpuAlone, cpuBeside []float64
	for range b.repeats() {
		a, err := b.readMax(ctx, r, t, "/products/{sku}")
		if err != nil {
			return fmt.Errorf("readers alone: %w", err)
		}
		writer, err := b.startUpdates(ctx, r, t)
		if err != nil {
			return err
		}
		w, err := b.readMax(ctx, r, t, "/products/{sku}")
		rate, stopErr := writer.stop()
		if err != nil || stopErr != nil {
			return fmt.Errorf("readers beside the writer: %w", firstOf(err, stopErr))
		}
		alone, beside, written = append(alone, a.perSecond), append(beside, w.perSecond), append(written, rate)
		lost = append(lost, 100*(1-w.perSecond/a.perSecond))
		cpuAlone, cpuBeside = append(cpuAlone, a.cpuMicros), append(cpuBeside, w.cpuMicros)
	}
	var p struct {
		Version float64 `json:"version"`
	}
	if err := getJSON(ctx, http.DefaultClient, t, "/products/"+productSKU(0), &p); err != nil {
		return err
	}
	if p.Version < 2 {
		return fmt.Errorf("the writer wrote nothing: %s is at version %.0f", productSKU(0), p.Version)
	}
	r.add(fmt.Sprintf("readers alone, median of %d", len(alone)), median(alone), "requests/s")
	r.add("readers beside the writer", median(beside), "requests/s")
	r.add("readers lose", median(lost), "%")
	r.add("products changed", median(written), "/s")
	r.add("server CPU a read, alone", median(cpuAlone), "µs")
	r.add("server CPU a read, the writes included", median(cpuBeside), "µs")
	r.note("The writer's commits, the command that sends them and the generator share the cores with the readers: most of the loss is CPU time. "+
		"What the index itself costs beside a writer is a benchmark of its package. %s has version %.0f in the end.", productSKU(0), p.Version)
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// updates is an import that goes on and on.
type updates struct {
	cmd    *exec.Cmd
	out    bytes.Buffer
	cancel context.CancelFunc
	fed    chan error
	lines  int
	took   time.Duration
}

// startUpdates starts an import from a pipe that changes the price of one product
// after the other.
func (b *bench) startUpdates(ctx context.Context, r *result, t *target) (*updates, error) {
	args := []string{"import", "products", "-", "--format", "ndjson", "--data"}
	r.command("bin/millrace", append(args, "DIR"))
	u := &updates{fed: make(chan error, 1)}
	u.cmd = exec.CommandContext(ctx, b.binary, append(args, t.dir)...)
	u.cmd.Env = append(os.Environ(), "MILLRACE_TOKEN="+t.token)
	u.cmd.Stdout, u.cmd.Stderr = &u.out, &u.out
	u.cmd.Cancel = func() error { return u.cmd.Process.Signal(syscall.SIGINT) }
	u.cmd.WaitDelay = 10 * time.Second
	in, err := u.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := u.cmd.Start(); err != nil {
		return nil, err
	}
	var feeding context.Context
	feeding, u.cancel = context.WithCancel(ctx)
	go func() { u.fed <- u.feed(feeding, in) }()
	return u, nil
}

// feed writes lines at the rate until ctx ends.
func (u *updates) feed(ctx context.Context, in io.WriteCloser) error {
	began := time.Now()
	price := began.UnixMilli() % 1_000_000_000 // another one than in the turn before
	tick := time.NewTicker(time.Second * updatesAtOnce / updatesPerSecond)
	defer tick.Stop()
	for {
		var lines bytes.Buffer
		for range updatesAtOnce {
			lines.Write(productLine(u.lines%readProducts, price+int64(u.lines)))
			lines.WriteByte('\n')
			u.lines++
		}
		if _, err := in.Write(lines.Bytes()); err != nil {
			_ = in.Close()
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			u.took = time.Since(began)
			return in.Close()
		}
	}
}

// stop ends the import and returns how many products it changed a second.
func (u *updates) stop() (perSecond float64, err error) {
	u.cancel()
	fed, ended := <-u.fed, u.cmd.Wait()
	if err := firstOf(ended, fed); err != nil {
		return 0, fmt.Errorf("import: %w\n%s", err, u.out.String())
	}
	return float64(u.lines) / u.took.Seconds(), nil
}
