package cli

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/config"
)

func TestKeysCreatePrintsTheKeyAloneOnStandardOutput(t *testing.T) {
	api := &fakeControl{answers: []answer{{201,
		`{"id":"k1","name":"till 7","scopes":["events:write"],"createdAt":"2026-11-22T08:30:00Z","createdBy":"operator","expiresAt":"2026-12-22T08:30:00Z","secret":"mrk_k1_s"}`}}}
	r := invocation{deps: api.deps()}.run(t, "keys", "create", "--tenant", "demo", "--name", "till 7", "--scope", "events:write", "--ttl", "30d")
	want := result{Out: "mrk_k1_s\n",
		Err: "Key k1 for tenant demo may events:write until 2026-12-22T08:30:00Z. Keep it now: it cannot be shown again.\n"}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	wantCalls := []call{{"POST /keys", "demo", `{"name":"till 7","scopes":["events:write"],"ttl":"720h0m0s"}`}}
	if diff := cmp.Diff(wantCalls, api.calls); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if api.released != 1 {
		t.Errorf("the control client was released %d times, want once", api.released)
	}
}

func TestKeysCreateWithoutTTLAsksForAKeyWithoutEnd(t *testing.T) {
	api := &fakeControl{answers: []answer{{201, `{"id":"k1","scopes":["admin"],"secret":"mrk_k1_s"}`}}}
	r := invocation{deps: api.deps()}.run(t, "keys", "create", "--tenant", "demo", "--name", "n", "--scope", "admin", "--json")
	if diff := cmp.Diff(result{Out: `{"id":"k1","scopes":["admin"],"secret":"mrk_k1_s"}` + "\n"}, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]call{{"POST /keys", "demo", `{"name":"n","scopes":["admin"]}`}}, api.calls); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestKeysListShowsWhichKeysAreActive(t *testing.T) {
	api := &fakeControl{answers: []answer{{200, `{"keys":[
		{"id":"k1","name":"till\u001b[2J","scopes":["events:write","events:read"],"createdAt":"2026-11-22T08:30:00.123Z"},
		{"id":"k2","name":"old","scopes":["admin"],"createdAt":"2020-01-01T00:00:00Z","expiresAt":"2020-02-01T00:00:00Z"},
		{"id":"k3","name":"lost","scopes":["admin"],"createdAt":"2020-01-01T00:00:00Z","revokedAt":"2020-01-02T00:00:00Z"}]}`}}}
	r := invocation{deps: api.deps()}.run(t, "keys", "list", "--tenant", "demo")
	want := result{Out: strings.TrimLeft(`
ID  NAME         SCOPES                    CREATED               EXPIRES               STATE
k1  till\x1b[2J  events:write events:read  2026-11-22T08:30:00Z  -                     active
k2  old          admin                     2020-01-01T00:00:00Z  2020-02-01T00:00:00Z  expired
k3  lost         admin                     2020-01-01T00:00:00Z  -                     revoked 2020-01-02T00:00:00Z
`, "\n")}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestKeysListSaysThatThereAreNone(t *testing.T) {
	api := &fakeControl{answers: []answer{{200, `{"keys":[]}`}}}
	r := invocation{deps: api.deps()}.run(t, "keys", "list", "--tenant", "demo")
	if diff := cmp.Diff(result{Err: "Tenant demo has no API keys.\n"}, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestKeysRevokeEscapesTheID(t *testing.T) {
	api := &fakeControl{answers: []answer{{204, ""}}}
	r := invocation{deps: api.deps()}.run(t, "keys", "revoke", "../k 1", "--tenant", "demo")
	if diff := cmp.Diff(result{Out: "Key ../k 1 is revoked.\n"}, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]call{{"DELETE /keys/..%2Fk%201", "demo", ""}}, api.calls); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestAProblemOfTheAPIIsOneLine(t *testing.T) {
	tests := []struct {
		name string
		answer
		want string
	}{
		{"with a detail", answer{404, `{"type":"https://millrace.dev/problems/not-found","title":"Not found","status":404,"detail":"there is no such key"}`},
			"Not found: there is no such key"},
		{"with parameters", answer{422, `{"title":"A parameter is wrong","errors":[{"location":"body.name","message":"is too long"}]}`},
			"A parameter is wrong; body.name: is too long"},
		{"with parameters that the detail names already", answer{422, `{"title":"Wrong","detail":"body.name: is too long","errors":[{"location":"body.name","message":"is too long"}]}`},
			"Wrong: body.name: is too long"},
		{"with rejected events", answer{422, `{"title":"Nothing was accepted","rejected":[{"index":0,"reason":"\"type\" is missing"}]}`},
			`Nothing was accepted; "type" is missing`},
		{"that will pass", answer{503, `{"title":"The backlog is full","retryAfter":5,"instance":"r-1"}`},
			"The backlog is full; try again in 5 s; in the server's log it is request r-1"},
		{"that is none", answer{502, `<html>`}, "the server answered 502 Bad Gateway; look at its log"},
		{"with control characters", answer{400, `{"title":"Bad\u001b[31m"}`}, `Bad\x1b[31m`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			api := &fakeControl{answers: []answer{test.answer}}
			r := invocation{deps: api.deps()}.run(t, "keys", "revoke", "k1", "--tenant", "demo")
			code := ExitFailure
			if strings.Contains(test.body, `"errors"`) {
				code = ExitUsage // an argument was wrong
			}
			want := result{Code: code, Err: "millrace: " + test.want + "\n"}
			if diff := cmp.Diff(want, r); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if api.released != 1 {
				t.Errorf("released %d times, want once", api.released)
			}
		})
	}
}

func TestAServerThatDoesNotAnswerIsAClearError(t *testing.T) {
	r := invocation{deps: (&fakeControl{}).deps()}.run(t, "keys", "list", "--tenant", "demo")
	want := result{Code: ExitFailure, Err: "millrace: the server did not answer: connection refused; look at its log, then try again\n"}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestDataThatCannotBeOpenedIsReportedAsItIs(t *testing.T) {
	i := invocation{deps: Deps{Control: func(context.Context, *config.Config) (*http.Client, string, func() error, error) {
		return nil, "", nil, errors.New("there is no data directory /d: name the one of your server with --data")
	}}}
	r := i.run(t, "keys", "list", "--tenant", "demo", "--data", "/d")
	want := result{Code: ExitFailure, Err: "millrace: there is no data directory /d: name the one of your server with --data\n"}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

const letterJSON = `{"id":"d1","kind":"event","reason":"\"type\" is missing","type":"","receivedAt":"2026-11-22T08:30:00Z","attempts":1,"payload":"{\"id\":\"17\"}","payloadEncoding":"utf-8"}`

func TestDeadLettersListShowsOnePageAndHowToGoOn(t *testing.T) {
	api := &fakeControl{answers: []answer{{200, `{"deadLetters":[` + letterJSON + `],"nextCursor":"c1"}`}}}
	r := invocation{deps: api.deps()}.run(t, "dead-letters", "list", "--tenant", "demo",
		"--kind", "event", "--type", "order.placed", "--from", "2026-11-22", "--to", "2026-11-22T10:00:00.5+01:00", "--limit", "1")
	want := result{
		Out: "ID  KIND   TYPE  RECEIVED              ATTEMPTS  REASON\nd1  event  -     2026-11-22T08:30:00Z  1         \"type\" is missing\n",
		Err: "There are more: add --cursor c1 for the next, or --all.\n",
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	wantCalls := []call{{"GET /dead-letters?from=2026-11-22T00%3A00%3A00Z&kind=event&limit=1&to=2026-11-22T09%3A00%3A00.5Z&type=order.placed", "demo", ""}}
	if diff := cmp.Diff(wantCalls, api.calls); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestDeadLettersListAllWalksThePages(t *testing.T) {
	api := &fakeControl{answers: []answer{
		{200, `{"deadLetters":[{"id":"d1"}],"nextCursor":"c1"}`},
		{200, `{"deadLetters":[{"id":"d2"}],"nextCursor":"c2"}`},
		{200, `{"deadLetters":[{"id":"d3"}]}`},
	}}
	r := invocation{deps: api.deps()}.run(t, "dead-letters", "list", "--tenant", "demo", "--all", "--json")
	if diff := cmp.Diff(result{Out: "{\"id\":\"d1\"}\n{\"id\":\"d2\"}\n{\"id\":\"d3\"}\n"}, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if len(api.calls) != 3 || api.calls[2].Request != "GET /dead-letters?cursor=c2&limit=50" {
		t.Errorf("requests: %v", api.calls)
	}
}

func TestDeadLettersListEndsWhenTheServerRepeatsItself(t *testing.T) {
	page := answer{200, `{"deadLetters":[{"id":"d1"}],"nextCursor":"c1"}`}
	api := &fakeControl{answers: []answer{page, page, page, page}}
	r := invocation{deps: api.deps()}.run(t, "dead-letters", "list", "--tenant", "demo", "--all", "--json")
	if r.Code != ExitFailure || !strings.Contains(r.Err, "the server gave the same page twice") || len(api.calls) != 2 {
		t.Errorf("after %d requests: %+v", len(api.calls), r)
	}
}

func TestDeadLettersListSaysThatThereIsNone(t *testing.T) {
	api := &fakeControl{answers: []answer{{200, `{"deadLetters":[]}`}}}
	r := invocation{deps: api.deps()}.run(t, "dead-letters", "list", "--tenant", "demo", "--kind", "body")
	if diff := cmp.Diff(result{Err: "There is none: every dead letter of tenant demo of kind body was asked for.\n"}, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestDeadLettersShowIsSafeOnATerminalAndExactInAFile(t *testing.T) {
	const body = `{"id":"d1","kind":"body","reason":"not JSON","receivedAt":"2026-11-22T08:30:00Z","attempts":2,"lastAttemptAt":"2026-11-22T09:00:00Z","payload":"G1sySv8KIA==","payloadEncoding":"base64","truncated":true}`
	show := func(extra ...string) result {
		api := &fakeControl{answers: []answer{{200, body}}}
		return invocation{deps: api.deps()}.run(t, append([]string{"dead-letters", "show", "d1", "--tenant", "demo"}, extra...)...)
	}
	want := result{Out: strings.TrimLeft(`
id            d1
kind          body
reason        not JSON
received      2026-11-22T08:30:00Z
attempts      2
last attempt  2026-11-22T09:00:00Z
payload       only its beginning was kept

\x1b[2J\xff
 
`, "\n")}
	if diff := cmp.Diff(want, show()); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(result{Out: "\x1b[2J\xff\n "}, show("--payload")); diff != "" {
		t.Errorf("with --payload (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(result{Out: body + "\n"}, show("--json")); diff != "" {
		t.Errorf("with --json (-want +got):\n%s", diff)
	}
	if r := show("--json", "--payload"); r.Code != ExitUsage {
		t.Errorf("both at once: %+v", r)
	}
}

func TestDeadLettersRedriveOneCanTakeAReplacement(t *testing.T) {
	api := &fakeControl{answers: []answer{{200, `{"id":"d1","redriven":true}`}}}
	i := invocation{deps: api.deps(), stdin: `{"type":"mended"}`}
	r := i.run(t, "dead-letters", "redrive", "d1", "--tenant", "demo", "--replacement", "-")
	if diff := cmp.Diff(result{Out: "Dead letter d1 is an event now.\n"}, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]call{{"POST /dead-letters/d1/redrive", "demo", `{"type":"mended"}`}}, api.calls); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if r := i.run(t, "dead-letters", "redrive", "d1", "--tenant", "demo", "--replacement", "/nowhere/x"); r.Code != ExitFailure || !strings.Contains(r.Err, "the replacement cannot be read") {
		t.Errorf("a missing file: %+v", r)
	}
	i.stdin = ""
	if r := i.run(t, "dead-letters", "redrive", "d1", "--tenant", "demo", "--replacement", "-"); r.Code != ExitFailure || !strings.Contains(r.Err, "the replacement is empty") {
		t.Errorf("an empty one: %+v", r)
	}
}

func TestDeadLettersRedriveByFilterGoesOnUntilNoneIsLeft(t *testing.T) {
	api := &fakeControl{answers: []answer{
		{200, `{"redriven":1000,"failed":0,"more":true}`},
		{200, `{"redriven":7,"failed":0,"more":false}`},
	}}
	r := invocation{deps: api.deps()}.run(t, "dead-letters", "redrive", "--tenant", "demo", "--kind", "event", "--yes")
	if diff := cmp.Diff(result{Out: "1007 dead letters redriven.\n"}, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if len(api.calls) != 2 || api.calls[1].Request != "POST /dead-letters/redrive?kind=event" {
		t.Errorf("requests: %v", api.calls)
	}
}

func TestDeadLettersRedriveByFilterStopsAtFailures(t *testing.T) {
	api := &fakeControl{answers: []answer{{200, `{"redriven":998,"failed":2,"more":true}`}}}
	r := invocation{deps: api.deps()}.run(t, "dead-letters", "redrive", "--tenant", "demo", "--all", "--yes")
	want := result{Code: ExitFailure, Out: "998 dead letters redriven.\n",
		Err: "millrace: 2 dead letters refused again, kept with the new reason, and more match that were not tried; mend what is wrong (see `millrace dead-letters list`), then redrive again\n"}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestDeletingByFilterAsksFirst(t *testing.T) {
	tests := []struct {
		name        string
		args        []string
		stdin       string
		interactive bool
		want        result
		deleted     bool
	}{
		{"nobody is there", nil, "", false,
			result{Code: ExitUsage, Err: "millrace: Delete every dead letter of tenant demo of type t for good? Nobody is there to be asked; add --yes if you mean it\n"}, false},
		{"the person says yes", nil, "y\n", true,
			result{Out: "3 dead letters deleted.\n", Err: "Delete every dead letter of tenant demo of type t for good? [y/N] "}, true},
		{"the person says nothing", nil, "\n", true,
			result{Code: ExitFailure, Err: "Delete every dead letter of tenant demo of type t for good? [y/N] millrace: nothing was changed, as you wished\n"}, false},
		{"the person goes away", nil, "", true,
			result{Code: ExitFailure, Err: "Delete every dead letter of tenant demo of type t for good? [y/N] millrace: nothing was changed, as you wished\n"}, false},
		{"--yes", []string{"--yes"}, "", false, result{Out: "3 dead letters deleted.\n"}, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			api := &fakeControl{answers: []answer{{200, `{"deleted":2,"more":true}`}, {200, `{"deleted":1,"more":false}`}}}
			i := invocation{deps: api.deps(), stdin: test.stdin, interactive: test.interactive}
			r := i.run(t, append([]string{"dead-letters", "delete", "--tenant", "demo", "--type", "t"}, test.args...)...)
			if diff := cmp.Diff(test.want, r); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if test.deleted != (len(api.calls) == 2) || !test.deleted && len(api.calls) > 0 {
				t.Errorf("requests: %v", api.calls)
			}
		})
	}
}

func TestDeletingAllGivesTheFilterThatTheAPIWants(t *testing.T) {
	api := &fakeControl{answers: []answer{{200, `{"deleted":1}`}}}
	r := invocation{deps: api.deps()}.run(t, "dead-letters", "delete", "--tenant", "demo", "--all", "--yes")
	if r.Code != ExitOK || r.Out != "1 dead letter deleted.\n" {
		t.Errorf("got %+v", r)
	}
	to, ok := strings.CutPrefix(api.calls[0].Request, "DELETE /dead-letters?to=")
	if _, err := time.Parse(time.RFC3339Nano, strings.ReplaceAll(to, "%3A", ":")); !ok || err != nil {
		t.Errorf("request: %s (%v)", api.calls[0].Request, err)
	}
}

func TestMomentsAreTimesDaysOrAgo(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-11-22T10:00:00Z":      time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC),
		"2026-11-22T10:00:00+02:00": time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC),
		"2026-11-21":                time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC),
		"2h":                        time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC),
		"7d":                        time.Date(2026, 11, 15, 12, 0, 0, 0, time.UTC),
	} {
		var got time.Time
		if err := (moment{&got, func() time.Time { return now }}).Set(text); err != nil || !got.Equal(want) {
			t.Errorf("%q: got %v, %v; want %v", text, got, err, want)
		}
	}
}
