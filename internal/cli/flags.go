package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"millrace/internal/config"
)

// configFlags are the flags of a command that reads the configuration.
type configFlags struct {
	cmd  *cobra.Command
	file string
	set  []string
	// keys has the flags that stand for a key of their own: flag name to key path.
	keys map[string]string
}

// addConfigFlags gives a command --config, --data and --set.
func addConfigFlags(cmd *cobra.Command) *configFlags {
	f := &configFlags{cmd: cmd, keys: map[string]string{}}
	cmd.Flags().StringVar(&f.file, "config", "", "YAML `FILE` with the configuration")
	cmd.Flags().StringArrayVar(&f.set, "set", nil, "set any configuration `KEY=VALUE` (see: millrace config reference); may be repeated")
	f.key("data", "data", "`DIR` that holds everything durable")
	return f
}

// key adds a flag that sets a configuration key.
func (f *configFlags) key(name, path, usage string) {
	f.cmd.Flags().String(name, "", usage+" (default "+defaultOf(path)+")")
	f.keys[name] = path
}

// toggle adds a flag that sets a configuration key of true or false; without a
// value it is true.
func (f *configFlags) toggle(name, path, usage string) {
	f.cmd.Flags().Bool(name, false, usage)
	f.keys[name] = path
}

func defaultOf(path string) string {
	for _, g := range config.Groups() {
		for _, k := range g.Keys {
			if k.Path == path {
				return k.Default
			}
		}
	}
	panic("cli: a flag stands for the configuration key " + path + ", which does not exist")
}

// load returns the configuration that the flags and the environment ask for.
func (f *configFlags) load(env []string) (*config.Config, error) {
	var flags []config.Flag
	for _, s := range f.set {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return nil, usagef("--set %s: write it as --set key=value, such as --set log.level=debug", s)
		}
		flags = append(flags, config.Flag{Name: "--set", Key: key, Value: value})
	}
	f.cmd.Flags().Visit(func(p *pflag.Flag) {
		if key, ok := f.keys[p.Name]; ok {
			flags = append(flags, config.Flag{Name: "--" + p.Name, Key: key, Value: p.Value.String()})
		}
	})
	file := f.file
	if !f.cmd.Flags().Changed("config") {
		file = lookupEnv(env, config.EnvConfigFile)
	}
	return config.Load(file, env, flags)
}

func lookupEnv(env []string, name string) string {
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// required returns an error that names every flag that was left out.
func required(cmd *cobra.Command, flags ...string) error {
	var missing []string
	for _, name := range flags {
		if f := cmd.Flags().Lookup(name); f.Value.String() == "" {
			placeholder, _ := pflag.UnquoteUsage(f)
			missing = append(missing, "--"+name+" "+placeholder)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return usagef("missing %s; see `%s --help`", strings.Join(missing, " and "), cmd.CommandPath())
}

// period is a duration flag that also takes days, "30d", because credentials
// live that long and Go's durations end at hours.
type period struct{ d *time.Duration }

func (p period) Type() string   { return "DURATION" }
func (p period) String() string { return p.d.String() }

func (p period) Set(s string) error {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n <= 36500 {
			*p.d = time.Duration(n) * 24 * time.Hour
			return nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return errors.New("write a duration, such as 90m, 24h or 30d")
	}
	*p.d = d
	return nil
}

// rate is a flag of events a second, or "max", which is 0.
type rate struct{ n *int }

func (r rate) Type() string { return "N|max" }

func (r rate) String() string {
	if r.n == nil || *r.n == 0 {
		return "max"
	}
	return strconv.Itoa(*r.n)
}

func (r rate) Set(s string) error {
	if s == "max" {
		*r.n = 0
		return nil
	}
	n, err := strconv.Atoi(strings.ReplaceAll(s, "_", ""))
	if err != nil || n < 1 {
		return errors.New("write how many a second, such as 50000, or max")
	}
	*r.n = n
	return nil
}

// moment is a flag for a point in time: RFC 3339, a day, or how long ago.
type moment struct {
	t   *time.Time
	now func() time.Time
}

func (m moment) Type() string { return "TIME" }

func (m moment) String() string {
	if m.t == nil || m.t.IsZero() {
		return ""
	}
	return m.t.Format(time.RFC3339)
}

func (m moment) Set(s string) error {
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			*m.t = t.UTC()
			return nil
		}
	}
	var ago time.Duration
	if err := (period{&ago}).Set(s); err == nil && ago >= 0 {
		*m.t = m.now().Add(-ago).UTC()
		return nil
	}
	return errors.New("write a time such as 2026-11-22T10:00:00Z, a day such as 2026-11-22 (UTC), or how long ago, such as 2h or 7d")
}

// scopeList splits "events:write events:read"; commas will do too.
func scopeList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\n' })
}

// printable makes text that others wrote safe to show on a terminal: control
// characters could move the cursor or retitle the window.
func printable(s string) string {
	for _, r := range s {
		if !strconv.IsPrint(r) {
			quoted := strconv.QuoteToGraphic(s)
			return quoted[1 : len(quoted)-1]
		}
	}
	return s
}

// printableLines is printable for text of several lines, which stay lines.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = printable(strings.TrimSuffix(line, "\r"))
	}
	return strings.Join(lines, "\n")
}

// shortTime writes a time of the API for people: seconds are enough, UTC stays.
func shortTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// plural writes "1 dead letter", "2 dead letters".
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
