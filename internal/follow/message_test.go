package follow

import (
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestWhatIsToldArrives(t *testing.T) {
	many := map[string]int64{}
	for n := range 1000 {
		many[fmt.Sprintf("%0200d", n)] = int64(n) + 1<<62
	}
	for _, tt := range []struct {
		name     string
		changes  map[string]int64
		more     bool
		messages int
		want     map[string]int64
		wantMore bool
	}{
		{name: "nothing"},
		{name: "one change", changes: map[string]int64{"demo": 7}, messages: 1, want: map[string]int64{"demo": 7}},
		{name: "that there is more", more: true, messages: 1, wantMore: true},
		{name: "a scope with a long name", changes: map[string]int64{strings.Repeat("x", 201): 1}, messages: 1, wantMore: true},
		{name: "very many of the longest", changes: many, more: true, messages: 4, want: many, wantMore: true},
		{name: "a name of signs", changes: map[string]int64{"\"\\<ü\u2028>": 1}, messages: 1, want: map[string]int64{"\"\\<ü\u2028>": 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, more, sent := map[string]int64{}, false, messages("test", "a", tt.changes, tt.more)
			for _, data := range sent {
				m, err := readMessage(data)
				if err != nil || m.Index != "test" || m.From != "a" {
					t.Fatalf("%+v, %v", m, err)
				}
				maps.Copy(got, m.Changes)
				more = more || m.More
			}
			if tt.want == nil {
				tt.want = map[string]int64{}
			}
			if diff := gocmp.Diff(tt.want, got); diff != "" || len(sent) != tt.messages || more != tt.wantMore {
				t.Errorf("%d messages, more %v, changes (-want +got):\n%s", len(sent), more, diff)
			}
		})
	}
}

func TestMessagesThatAreIgnored(t *testing.T) {
	scopes := func(n int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf(`"s%d":1`, i))
		}
		return `{"v":1,"index":"test","from":"b","changes":{` + strings.Join(list, ",") + `}}`
	}
	for _, tt := range []struct {
		name, data string
		unreadable bool
	}{
		{"nothing", "", true},
		{"no JSON", "hello", true},
		{"half a message", `{"v":1,"index":"test","from":"b","changes":{"demo":1`, true},
		{"of a later release", `{"v":2,"index":"test","from":"b","changes":{"demo":1}}`, true},
		{"of nobody", `{"v":1,"index":"test","changes":{"demo":1}}`, true},
		{"of no index", `{"v":1,"from":"b","changes":{"demo":1}}`, true},
		{"a change of nothing", `{"v":1,"index":"test","from":"b","changes":{"demo":0}}`, true},
		{"a change that is too large", `{"v":1,"index":"test","from":"b","changes":{"demo":9223372036854775808}}`, true},
		{"a scope without a name", `{"v":1,"index":"test","from":"b","changes":{"":1}}`, true},
		{"a long scope", `{"v":1,"index":"test","from":"b","changes":{"` + strings.Repeat("x", 201) + `":1}}`, true},
		{"too many scopes", scopes(messageScopes + 1), true},
		{"too long", `{"v":1,"index":"test","from":"b","changes":{"demo":1},"x":"` + strings.Repeat("x", maxMessageBytes) + `"}`, true},
		{"of another index", `{"v":1,"index":"places","from":"b","changes":{"demo":1}}`, false},
		{"its own", `{"v":1,"index":"test","from":"a","changes":{"demo":1},"more":true}`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := &instance{t: t}
			f := heardOf(t, i, tt.data)
			changes, more := f.heard.take()
			if len(changes) > 0 || more || i.metric("broadcasts_total", "received") != 0 {
				t.Errorf("it was followed: %v, %v", changes, more)
			}
			if got := i.metric("broadcasts_total", "ignored") == 1; got != tt.unreadable {
				t.Errorf("counted as ignored: %v, want %v", got, tt.unreadable)
			}
		})
	}
	i := &instance{t: t}
	f := heardOf(t, i, `{"v":1,"index":"test","from":"b","changes":{"demo":3},"more":true,"later":{"a":1}}`)
	if changes, more := f.heard.take(); changes["demo"] != 3 || !more || i.metric("broadcasts_total", "received") != 1 {
		t.Errorf("a good one with a member more: %v, %v", changes, more)
	}
}

// heardOf returns a follower that was given a message.
func heardOf(t *testing.T, i *instance, data string) *Follower[row] {
	t.Helper()
	i.registry = prometheus.NewRegistry()
	f, err := New(Options[row]{Name: "test", Instance: "a", Source: newDatabase(), Load: (&memory{}).load, Apply: func([]row) {},
		Change: func(r *row) int64 { return r.Change }, Metrics: NewMetrics(i.registry), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	f.hear([]byte(data))
	return f
}

func FuzzMessage(f *testing.F) {
	for _, data := range messages("test", "a", map[string]int64{"demo": 7}, true) {
		f.Add(data)
	}
	f.Add([]byte(`{"v":1,"index":"i","from":"b","changes":{"a":1,"a":2}} trailing`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := readMessage(data)
		if err != nil {
			return
		}
		packed := messages(m.Index, m.From, m.Changes, m.More)
		if len(packed) > 1 || len(packed) == 0 && (len(m.Changes) > 0 || m.More) {
			t.Fatalf("%q is read as %+v, which takes %d messages", data, m, len(packed))
		}
		for _, data := range packed {
			again, err := readMessage(data)
			if err != nil || !maps.Equal(again.Changes, m.Changes) || again.More != m.More {
				t.Errorf("%q is read as %+v, and that as %+v, error %v", data, m, again, err)
			}
		}
	})
}
