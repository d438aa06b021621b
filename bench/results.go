package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// measure is one number of a result.
type measure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Bar is what it must reach, in words; empty when it is for information.
	Bar string `json:"bar,omitempty"`
	// Reached says whether it did.
	Reached *bool `json:"reached,omitempty"`
}

// result is what one scenario gave.
type result struct {
	Name string `json:"name"`
	What string `json:"what"`
	// Version is the source's, as git describes it: a record may hold parts that
	// were measured at different times of a day.
	Version  string    `json:"version"`
	Commands []string  `json:"commands"`
	Measures []measure `json:"measures"`
	Notes    []string  `json:"notes,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// add notes a number.
func (r *result) add(name string, value float64, unit string) {
	r.Measures = append(r.Measures, measure{Name: name, Value: finite(value), Unit: unit})
}

// atMost notes a number that must not exceed a bound, atLeast one that must
// reach it.
func (r *result) atMost(name string, value float64, unit string, bound float64) {
	r.bar(name, value, unit, "≤ "+number(bound), value <= bound)
}

func (r *result) atLeast(name string, value float64, unit string, bound float64) {
	r.bar(name, value, unit, "≥ "+number(bound), value >= bound)
}

func (r *result) bar(name string, value float64, unit, bar string, reached bool) {
	r.Measures = append(r.Measures, measure{Name: name, Value: finite(value), Unit: unit, Bar: bar, Reached: &reached})
}

// finite makes a number that JSON can hold: what is beyond the last bucket of a
// histogram becomes the largest there is, what was never observed -1.
func finite(v float64) float64 {
	switch {
	case math.IsNaN(v):
		return -1
	case math.IsInf(v, 1):
		return math.MaxFloat64
	}
	return v
}

func (r *result) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// command records a command line for the reader, with what differs from run to
// run left out.
func (r *result) command(name string, args []string) {
	line := name
	for _, a := range args {
		if a == "" || strings.ContainsAny(a, " \"'$*") {
			a = "'" + a + "'"
		}
		line += " " + a
	}
	if !slices.Contains(r.Commands, line) {
		r.Commands = append(r.Commands, line)
	}
}

func (r *result) write(w io.Writer) {
	for _, m := range r.Measures {
		verdict := ""
		if m.Reached != nil {
			verdict = "  must be " + m.Bar + "  " + mark(m.Reached)
		}
		fmt.Fprintf(w, "  %-44s %12s %s%s\n", m.Name, number(m.Value), m.Unit, verdict)
	}
	for _, n := range r.Notes {
		fmt.Fprintln(w, "  "+n)
	}
	if r.Error != "" {
		fmt.Fprintln(w, "  FAILED: "+r.Error)
	}
}

func mark(reached *bool) string {
	switch {
	case reached == nil:
		return ""
	case *reached:
		return "yes"
	default:
		return "**no**"
	}
}

// number writes a number with as many digits as matter.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= math.MaxFloat64:
		return "beyond"
	case a >= 1000:
		s := fmt.Sprintf("%.0f", v)
		for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case a >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

// record is a whole run.
type record struct {
	// Of is what was measured: events, orders, cluster or reads.
	Of      string   `json:"of,omitempty"`
	Date    string   `json:"date"`
	Quick   bool     `json:"quick,omitempty"`
	Machine machine  `json:"machine"`
	Results []result `json:"results"`
}

// save writes both files. A quick run is marked in its name, so that it never
// replaces a measurement; a run of some scenarios replaces only those.
func (r record) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	name := r.Date + "-" + r.Of
	if r.Quick {
		name += "-quick"
	}
	path := filepath.Join(dir, name)
	r.keepOthers(path + ".json")
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".json", append(text, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(path+".md", r.markdown(), 0o644); err != nil {
		return err
	}
	fmt.Printf("\nwritten: %s.md and .json\n", path)
	return nil
}

// keepOthers adds the results of the same day that this run did not repeat.
func (r *record) keepOthers(path string) {
	var old record
	text, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(text, &old) != nil || old.Machine.CPU != r.Machine.CPU {
		return
	}
	byName := map[string]result{}
	for _, x := range append(old.Results, r.Results...) {
		byName[x.Name] = x
	}
	r.Results = nil
	for _, s := range scenarios() {
		if x, ok := byName[s.name]; ok {
			r.Results = append(r.Results, x)
		}
	}
}

func (r record) markdown() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s%s, measured on %s\n\n", strings.ToUpper(r.Of[:1]), r.Of[1:], r.Date)
	if r.Quick {
		b.WriteString("**A quick run: it shows that the scenarios work, not how fast the server is.**\n\n")
	}
	m := r.Machine
	fmt.Fprintf(&b, "%s, %d cores, %s of memory, %s, %s. ", m.CPU, m.Cores, m.Memory, m.Kernel, m.Go)
	fmt.Fprintf(&b, "The disk syncs %s writes of 4 KiB and %s of 256 KiB a second (write and fdatasync, one after the other).\n", number(m.Sync4K), number(m.Sync256K))
	fmt.Fprintf(&b, "The load generator runs on the same cores. Reproduce with `go run ./bench`, or one part with `go run ./bench -only NAME`.\n")
	for _, x := range r.Results {
		fmt.Fprintf(&b, "\n## %s\n\n%s. Version `%s`.\n\n", x.Name, x.What, x.Version)
		if len(x.Commands) > 0 {
			fmt.Fprintf(&b, "```\n%s\n```\n\n", strings.Join(x.Commands, "\n"))
		}
		b.WriteString("| What | Measured | Must be | Reached |\n|---|---:|---:|---|\n")
		for _, v := range x.Measures {
			fmt.Fprintf(&b, "| %s | %s %s | %s | %s |\n", v.Name, number(v.Value), v.Unit, v.Bar, mark(v.Reached))
		}
		for _, n := range x.Notes {
			fmt.Fprintf(&b, "\n%s\n", n)
		}
		if x.Error != "" {
			fmt.Fprintf(&b, "\n**Failed:** %s\n", x.Error)
		}
	}
	return b.Bytes()
}

// machine is what the numbers were measured on.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	// Sync4K and Sync256K are write-and-fdatasync cycles a second of that size.
	Sync4K   float64 `json:"syncs4KiBPerSecond"`
	Sync256K float64 `json:"syncs256KiBPerSecond"`
}

func describeMachine(dir string) machine {
	m := machine{CPU: "unknown CPU", Memory: "unknown size", Cores: runtime.NumCPU(), Go: runtime.Version(), Kernel: runtime.GOOS}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.CPU = field(string(text), "model name")
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kb float64
		if _, err := fmt.Sscanf(field(string(text), "MemTotal"), "%f", &kb); err == nil {
			m.Memory = fmt.Sprintf("%.0f GiB", kb/(1<<20))
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = "Linux " + strings.TrimSpace(string(text))
	}
	m.Sync4K = syncRate(dir, 4<<10)
	m.Sync256K = syncRate(dir, 256<<10)
	return m
}

// sourceVersion returns what git says of the source.
func sourceVersion(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// field returns the value of the first "name: value" line.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// othersBusy measures for a second how many cores other work keeps busy; 0 if
// that is not known. Nothing of the benchmark runs meanwhile.
func othersBusy() float64 {
	idle, total := cpuTicks()
	<-time.After(time.Second)
	idle2, total2 := cpuTicks()
	if total2 == total {
		return 0
	}
	return (1 - (idle2-idle)/(total2-total)) * float64(runtime.NumCPU())
}

// cpuTicks returns the idle time (waiting for disks is idle) and all time of all
// cores since the machine began.
func cpuTicks() (idle, total float64) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, f := range strings.Fields(line)[1:] {
		v, _ := strconv.ParseFloat(f, 64)
		if i == 3 || i == 4 { // idle, iowait
			idle += v
		}
		if i < 8 { // what follows is part of the others
			total += v
		}
	}
	return idle, total
}

// syncRate measures for a second how often the disk makes a write durable in
// space that was written before; 0 if it cannot.
func syncRate(dir string, size int) float64 {
	f, err := os.CreateTemp(dir, "sync-")
	if err != nil {
		return 0
	}
	defer os.Remove(f.Name())
	defer f.Close()
	const slots = 64
	block := bytes.Repeat([]byte{0x5a}, size)
	for i := range slots {
		if _, err := f.WriteAt(block, int64(i*size)); err != nil {
			return 0
		}
	}
	if f.Sync() != nil {
		return 0
	}
	began := time.Now()
	n := 0
	for ; time.Since(began) < time.Second; n++ {
		if _, err := f.WriteAt(block, int64(n%slots*size)); err != nil || datasync(f) != nil {
			return 0
		}
	}
	return float64(n) / time.Since(began).Seconds()
}
