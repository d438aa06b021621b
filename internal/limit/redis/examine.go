package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Grade says what to think of a Check.
type Grade string

// The grades.
const (
	OK      Grade = "ok"
	Warning Grade = "warning"
	Failure Grade = "failure"
	// Unknown is for what could not be looked at.
	Unknown Grade = "unknown"
)

// Check is one thing that Examine looked at.
type Check struct {
	// Name is what was looked at, with the node's address where there are several.
	Name  string
	Grade Grade
	// Found is how it is, Advice what to do about it; empty if nothing is.
	Found, Advice string
}

const (
	// slowAnswer is what an answer may take before it is worth a warning: exact limits
	// wait for one, and give up after 50 ms.
	slowAnswer = 10 * time.Millisecond
	// maxSkew: the limits need no clock but the server's own, yet a machine that is
	// further off has something wrong with it.
	maxSkew = 2 * time.Second
	// examineTimeout bounds an examination whose context has no deadline.
	examineTimeout = 10 * time.Second
)

// minVersion is the oldest Redis that is known to do.
var minVersion = [2]int{6, 2}

// Examine looks at the server, or at all nodes of the cluster. It changes nothing.
func (r *Redis) Examine(ctx context.Context) []Check {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, examineTimeout)
		defer cancel()
	}
	c, err := r.connect(ctx)
	if err != nil {
		return []Check{{Name: "reachable", Grade: Failure, Found: err.Error(), Advice: "Without Redis every instance applies its part of each limit by itself."}}
	}
	checks := []Check{r.encryption()}
	if c.Mode() == rueidis.ClientModeCluster {
		checks = append(checks, clusterState(ctx, c))
	}
	nodes := c.Nodes()
	for address, node := range nodes {
		suffix := ""
		if len(nodes) > 1 {
			suffix = " of " + address
		}
		for _, check := range r.node(ctx, node) {
			check.Name += suffix
			checks = append(checks, check)
		}
	}
	return checks
}

func (r *Redis) encryption() Check {
	if r.o.TLS != nil {
		return Check{Name: "TLS", Grade: OK, Found: "on"}
	}
	return Check{Name: "TLS", Grade: OK, Found: "off", Advice: "Switch it on if the network between is not your own: passwords and tenants' names go over it."}
}

func clusterState(ctx context.Context, c rueidis.Client) Check {
	check := Check{Name: "cluster", Grade: OK}
	text, err := c.Do(ctx, c.B().ClusterInfo().Build()).ToString()
	if err != nil {
		check.Grade, check.Found = Unknown, err.Error()
		return check
	}
	info := fields(text)
	check.Found = fmt.Sprintf("state %s, %s of 16384 slots, %s masters", info["cluster_state"], info["cluster_slots_ok"], info["cluster_size"])
	if info["cluster_state"] != "ok" {
		check.Grade, check.Advice = Failure, "Look at CLUSTER INFO and CLUSTER NODES: some slots are served by nobody."
	}
	return check
}

// node looks at one server.
func (r *Redis) node(ctx context.Context, c rueidis.Client) []Check {
	latency, skew, within, err := clock(ctx, c)
	if err != nil {
		return []Check{{Name: "reachable", Grade: Failure, Found: r.explain(err).Error(), Advice: "See that it runs and can be reached from here."}}
	}
	checks := []Check{{Name: "reachable", Grade: OK, Found: fmt.Sprintf("answers in %s", latency.Round(10*time.Microsecond))}}
	if latency > slowAnswer {
		checks[0].Grade = Warning
		checks[0].Advice = fmt.Sprintf("More than %s: run it nearer, or find what keeps it busy (SLOWLOG, INFO commandstats). Exact limits wait for each answer.", slowAnswer)
	}
	clocks := Check{Name: "clock", Grade: OK, Found: fmt.Sprintf("%s from this machine's, ± %s", skew.Round(time.Millisecond), within.Round(10*time.Microsecond))}
	if skew.Abs() > maxSkew+within {
		clocks.Grade, clocks.Advice = Warning, "Synchronise the clocks of both machines (NTP)."
	}
	checks = append(checks, clocks)
	text, err := c.Do(ctx, c.B().Info().Build()).ToString()
	if err != nil {
		return append(checks, Check{Name: "version and memory", Grade: Unknown, Found: r.explain(err).Error(), Advice: "Let the user run INFO."})
	}
	info := fields(text)
	return append(checks, version(info), memory(info), role(info))
}

// clock asks for the server's time a few times and believes the quickest answer.
func clock(ctx context.Context, c rueidis.Client) (latency, skew, within time.Duration, err error) {
	for i := range 5 {
		sent := time.Now()
		parts, err := c.Do(ctx, c.B().Time().Build()).AsIntSlice()
		took := time.Since(sent)
		if err != nil {
			return 0, 0, 0, err
		}
		if len(parts) != 2 {
			return 0, 0, 0, errors.New("the answer to TIME is not two numbers")
		}
		if i == 0 || took < latency {
			latency, within = took, took/2
			skew = time.Unix(parts[0], parts[1]*1000).Sub(sent.Add(within))
		}
	}
	return latency, skew, within, nil
}

func version(info map[string]string) Check {
	found := info["redis_version"]
	check := Check{Name: "version", Grade: OK, Found: "Redis " + found}
	if v := info["valkey_version"]; v != "" {
		check.Found = "Valkey " + v + ", as Redis " + found
	}
	major, rest, _ := strings.Cut(found, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	switch {
	case errA != nil || errB != nil:
		check.Grade, check.Found = Unknown, "it does not say"
	case a < minVersion[0] || a == minVersion[0] && b < minVersion[1]:
		check.Grade, check.Advice = Failure, fmt.Sprintf("Use %d.%d or newer.", minVersion[0], minVersion[1])
	}
	return check
}

func memory(info map[string]string) Check {
	policy := info["maxmemory_policy"]
	check := Check{Name: "memory", Grade: OK}
	most, _ := strconv.ParseInt(info["maxmemory"], 10, 64)
	used, _ := strconv.ParseInt(info["used_memory"], 10, 64)
	check.Found = fmt.Sprintf("%d MiB, no bound, policy %s", used>>20, policy)
	if most > 0 {
		check.Found = fmt.Sprintf("%d of %d MiB, policy %s", used>>20, most>>20, policy)
	}
	switch {
	case policy == "":
		check.Grade, check.Found = Unknown, "it does not say"
	case strings.HasPrefix(policy, "allkeys-"), strings.HasPrefix(policy, "volatile-"):
		// Every key of a limit expires, so volatile-* may remove them as well.
		check.Advice = "When its memory is full it removes limits, and a key whose count is removed gets one full bucket or window more. Give it enough memory, or a Redis of its own with maxmemory-policy noeviction."
		if strings.HasPrefix(policy, "allkeys-") || most > 0 && used > most/10*9 {
			check.Grade = Warning
		}
	case most > 0 && used > most/10*9:
		check.Grade, check.Advice = Warning, "Almost full: then it refuses writes, and every instance applies its part of each limit by itself. Raise maxmemory."
	}
	return check
}

func role(info map[string]string) Check {
	check := Check{Name: "role", Grade: OK, Found: info["role"] + ", mode " + info["redis_mode"]}
	if info["role"] == "slave" && info["redis_mode"] != "cluster" {
		check.Grade, check.Advice = Failure, "Give the address of the master, or of the Sentinels: a replica takes no writes."
	}
	if info["loading"] == "1" {
		check.Grade, check.Advice = Warning, "It is loading its data; look again when it is done."
	}
	return check
}

// fields reads the answer to INFO, which may begin with the kind of text it is.
func fields(text string) map[string]string {
	m := make(map[string]string)
	for line := range strings.Lines(strings.TrimPrefix(text, "txt:")) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			m[name] = value
		}
	}
	return m
}
