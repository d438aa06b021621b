package app

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"millrace/internal/config"
)

func TestAnEventThatIsSentCanBeSeen(t *testing.T) {
	s := start(t, testConfig(t))
	var receipt struct {
		Accepted int
		IDs      []string
	}
	s.want(202, "POST", "/events", `[{"type":"demo.hello","payload":{"answer":42}}]`).into(t, &receipt)
	if receipt.Accepted != 1 || len(receipt.IDs) != 1 {
		t.Fatalf("receipt %+v", receipt)
	}
	s.eventually("the event can be queried", func() error {
		if a := s.do("GET", "/events/"+receipt.IDs[0], ""); a.code != 200 || !strings.Contains(string(a.body), `"payload":{"answer":42}`) {
			return fmt.Errorf("%d %s", a.code, a.body)
		}
		return nil
	})
	var stats struct {
		Series []struct {
			Type   string
			Points []struct{ Count, Bytes int64 }
		}
	}
	s.want(200, "GET", "/events/stats?step=1m", "").into(t, &stats)
	if len(stats.Series) != 1 || stats.Series[0].Type != "demo.hello" || stats.Series[0].Points[0].Count != 1 || stats.Series[0].Points[0].Bytes != 13 {
		t.Errorf("stats %+v", stats)
	}
	other := mint(t, s.cfg, "other", "events:read")
	if a := s.do("GET", "/events/"+receipt.IDs[0], "", "Authorization", "Bearer "+other); a.code != 404 {
		t.Errorf("another tenant gets %d %s", a.code, a.body)
	}
	s.halt()
}

func TestASecondServerOnTheSameDataRefuses(t *testing.T) {
	s := start(t, testConfig(t))
	err := Run(t.Context(), s.cfg, io.Discard)
	if !errors.Is(err, errHeld) || !strings.Contains(err.Error(), "pid ") || !strings.Contains(err.Error(), "--data") {
		t.Errorf("error %v", err)
	}
}

func TestKeysAreMadeBesideTheServerAndWithoutIt(t *testing.T) {
	cfg := testConfig(t)
	// A path that is too long for the address of a socket.
	cfg.Data = filepath.Join(cfg.Data, strings.Repeat("long", 30))
	create := func() (id, secret string) {
		var key struct{ ID, Secret string }
		a := control(t, cfg, "POST", "/keys", `{"name":"devices","scopes":["events:write"]}`)
		if a.code != 201 {
			t.Fatalf("%d %s", a.code, a.body)
		}
		a.into(t, &key)
		return key.ID, key.Secret
	}
	send := func(s *server, secret string) int {
		return s.do("POST", "/events", `[{"type":"t"}]`, "Authorization", "Bearer "+secret).code
	}
	if _, _, _, err := Control(t.Context(), cfg); err == nil {
		t.Error("a directory that is not there was opened")
	}
	mint(t, cfg, "demo", "events:read") // makes the directory
	_, offline := create()
	s := start(t, cfg)
	id, beside := create()
	for name, secret := range map[string]string{"offline": offline, "beside": beside} {
		if code := send(s, secret); code != 202 {
			t.Errorf("the key made %s is answered %d", name, code)
		}
	}
	if a := control(t, cfg, "DELETE", "/keys/"+id, ""); a.code != 204 {
		t.Errorf("revoking: %d %s", a.code, a.body)
	}
	if code := send(s, beside); code != 401 {
		t.Errorf("a revoked key is answered %d", code)
	}
	if code := send(s, offline); code != 202 {
		t.Errorf("the other key is answered %d", code)
	}
	s.halt()
}

func TestADeadLetterIsMendedAndRedrivenOnce(t *testing.T) {
	cfg := testConfig(t)
	s := start(t, cfg)
	s.want(422, "POST", "/events", `[{"id":"x","type":7}]`)
	s.want(400, "POST", "/events", `this is not JSON`)
	var page struct {
		DeadLetters []struct{ ID, Kind, Reason, Payload string }
	}
	s.eventually("both are dead letters", func() error {
		s.want(200, "GET", "/dead-letters", "").into(t, &page)
		if len(page.DeadLetters) != 2 {
			return fmt.Errorf("%d letters", len(page.DeadLetters))
		}
		return nil
	})
	var id string
	for _, l := range page.DeadLetters {
		switch l.Kind {
		case "event":
			id = l.ID
			if l.Payload != `{"id":"x","type":7}` || !strings.Contains(l.Reason, "type") {
				t.Errorf("letter %+v", l)
			}
		case "body":
			if l.Payload != "this is not JSON" {
				t.Errorf("letter %+v", l)
			}
		}
	}
	if a := control(t, cfg, "POST", "/dead-letters/"+id+"/redrive", ""); a.code != 422 {
		t.Errorf("redriving what is still wrong: %d %s", a.code, a.body)
	}
	if a := control(t, cfg, "POST", "/dead-letters/"+id+"/redrive", `{"id":"x","type":"mended"}`); a.code != 200 {
		t.Errorf("redriving what was mended: %d %s", a.code, a.body)
	}
	s.eventually("the mended event can be queried", func() error {
		if a := s.do("GET", "/events/x", ""); a.code != 200 {
			return fmt.Errorf("%d", a.code)
		}
		return nil
	})
	if a := control(t, cfg, "POST", "/dead-letters/"+id+"/redrive", ""); a.code != 404 {
		t.Errorf("redriving it again: %d %s", a.code, a.body)
	}
	if got := s.countIDs(); len(got) != 1 || got["x"] != 1 {
		t.Errorf("events %v", got)
	}
	s.halt()
}

func TestASignedWebhookBecomesOneEvent(t *testing.T) {
	cfg := testConfig(t)
	secret := config.NewSecret("It's a Secret to Everybody")
	cfg.Hooks = map[string]config.Hook{"gh": {Scheme: "github", Tenant: "demo", Secrets: []config.Secret{secret}}}
	s := start(t, cfg)
	body := `{"action": "opened"}`
	mac := hmac.New(sha256.New, []byte("It's a Secret to Everybody"))
	mac.Write([]byte(body))
	signature := "sha256=" + hex.EncodeToString(mac.Sum(nil))
	post := func(signature string) int {
		return s.do("POST", "/hooks/gh", body, "Authorization", "", "X-GitHub-Event", "issues", "X-GitHub-Delivery", "d-1", "X-Hub-Signature-256", signature).code
	}
	for range 2 { // the sender repeats what it thinks was lost
		if code := post(signature); code != 202 {
			t.Fatalf("a signed delivery is answered %d", code)
		}
	}
	if code := post("sha256=" + strings.Repeat("0", 64)); code != 401 {
		t.Errorf("a wrong signature is answered %d", code)
	}
	if a := s.do("POST", "/hooks/unknown", body); a.code != 404 {
		t.Errorf("an unknown source is answered %d", a.code)
	}
	s.eventually("the event can be queried", func() error {
		a := s.do("GET", "/events/d-1", "")
		if a.code != 200 || !strings.Contains(string(a.body), `"type":"github.issues"`) || !strings.Contains(string(a.body), `"payload":{"action": "opened"}`) {
			return fmt.Errorf("%d %s", a.code, a.body)
		}
		return nil
	})
	if got := s.countIDs(); got["d-1"] != 1 || len(got) != 1 {
		t.Errorf("events %v", got)
	}
	s.halt()
}

func TestMalformedBodiesCountAgainstTheRate(t *testing.T) {
	cfg := testConfig(t)
	cfg.Events.Rate.PerSecond, cfg.Events.Rate.Burst = 1, 5
	s := start(t, cfg)
	codes := map[int]int{}
	for range 20 {
		codes[s.do("POST", "/events", "no JSON").code]++
	}
	if codes[400] == 0 || codes[429] == 0 || codes[400]+codes[429] != 20 {
		t.Errorf("answers %v, want some 400 and then 429", codes)
	}
	s.halt()
}

func TestAStopUnderLoadLosesNothingThatWasAcknowledged(t *testing.T) {
	cfg := testConfig(t)
	s := start(t, cfg)
	var mu sync.Mutex
	acked := map[string]bool{}
	enough := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("w%d-%d", w, i)
				a, err := s.try("POST", "/events", fmt.Sprintf(`[{"id":%q,"type":"t"}]`, id))
				if err != nil || a.code == 503 {
					return // it has stopped
				}
				mu.Lock()
				if a.code == 202 {
					acked[id] = true
				}
				if len(acked) == 200 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	s.halt()
	writers.Wait()
	s = start(t, cfg)
	s.eventually("all that was acknowledged is there, once", func() error {
		got := s.countIDs()
		for id := range acked {
			if got[id] != 1 {
				return fmt.Errorf("%s is there %d times", id, got[id])
			}
		}
		return nil
	})
	s.halt()
}

// lockDay keeps the store from writing today's events, as a database that is
// away does, until release is called.
func lockDay(t *testing.T, s *server) (release func()) {
	t.Helper()
	s.want(202, "POST", "/events", `[{"id":"first","type":"t"}]`)
	s.eventually("the day's file is there", func() error {
		if s.do("GET", "/events/first", "").code != 200 {
			return errors.New("not yet")
		}
		return nil
	})
	file := filepath.Join(s.cfg.Data, "events", time.Now().UTC().Format(time.DateOnly)+".db")
	db, err := sql.Open("sqlite", file+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(context.Background(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := conn.ExecContext(context.Background(), "ROLLBACK"); err != nil {
			t.Error(err)
		}
		_ = conn.Close()
		_ = db.Close()
	}
}

func TestAFullBacklogIsRefusedEarlyAndRecoversByItself(t *testing.T) {
	cfg := testConfig(t)
	cfg.Events.BacklogMaxBytes = 16 * config.MiB
	s := start(t, cfg)
	release := lockDay(t, s)
	filler := `"` + strings.Repeat("x", 200<<10) + `"`
	acked := []string{"first"}
	sawFull, sawUnready := false, false
	for i := 0; i < 200 && !sawFull; i++ {
		id := fmt.Sprint("e", i)
		a := s.do("POST", "/events", fmt.Sprintf(`[{"id":%q,"type":"t","payload":%s}]`, id, filler))
		switch a.code {
		case 202:
			acked = append(acked, id)
		case 503:
			sawFull = true
			if a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), "backlog") {
				t.Errorf("refused with %v %s", a.header, a.body)
			}
		default:
			t.Fatalf("%d %s", a.code, a.body)
		}
		if !sawUnready && s.do("GET", "/readyz/events", "").code == 503 {
			sawUnready = true
			if sawFull {
				t.Error("readiness failed only when the backlog was full, want at 90 %")
			}
		}
	}
	if !sawFull || !sawUnready {
		t.Fatalf("refused: %v, not ready: %v, after %d events", sawFull, sawUnready, len(acked))
	}
	// The refusal comes before the body is read: it comes although none is sent.
	r, err := http.NewRequest("POST", s.base+"/events", readerFunc(func([]byte) (int, error) { select {} }))
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = 1000
	r.Header.Set("Authorization", "Bearer "+s.token)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	response, err := http.DefaultClient.Do(r.WithContext(ctx))
	if err != nil || response.StatusCode != 503 {
		t.Errorf("without a body: %v, %v", response, err)
	}
	release()
	s.eventually("the server is ready again and has everything", func() error {
		if a := s.do("GET", "/readyz", ""); a.code != 200 {
			return fmt.Errorf("%s", a.body)
		}
		for id, n := range s.countIDs() {
			if n != 1 {
				return fmt.Errorf("%s is there %d times", id, n)
			}
		}
		if got := len(s.countIDs()); got != len(acked) {
			return fmt.Errorf("%d events, want %d", got, len(acked))
		}
		return nil
	})
	s.want(202, "POST", "/events", `[{"type":"t"}]`)
	s.halt()
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestAckStoreMeansQueryable(t *testing.T) {
	cfg := testConfig(t)
	cfg.Events.Ack = "store"
	cfg.Events.StoreAckTimeout = 300 * time.Millisecond
	s := start(t, cfg)
	for i := range 10 {
		s.want(202, "POST", "/events", fmt.Sprintf(`[{"id":"e%d","type":"t"}]`, i))
		s.want(200, "GET", fmt.Sprintf("/events/e%d", i), "") // at once
	}
	release := lockDay(t, s)
	a := s.want(503, "POST", "/events", `[{"id":"late","type":"t"}]`)
	if !strings.Contains(string(a.body), "same ids") {
		t.Errorf("%s", a.body)
	}
	release()
	s.eventually("the event is stored all the same", func() error {
		if s.do("GET", "/events/late", "").code != 200 {
			return errors.New("not yet")
		}
		return nil
	})
	s.halt()
}

func TestRepeatedEventsCountOnceAlsoAfterARestart(t *testing.T) {
	for _, mode := range []string{"window", "exact"} {
		t.Run(mode, func(t *testing.T) {
			cfg := testConfig(t)
			cfg.Events.Dedupe.Mode = mode
			s := start(t, cfg)
			for round := range 3 {
				for range 2 {
					s.want(202, "POST", "/events", `[{"id":"a","type":"t"},{"id":"b","type":"t"},{"id":"a","type":"t"}]`)
				}
				s.halt()
				if mode == "exact" && round == 1 {
					cfg.Events.Dedupe.Window = 1 // a window that begins empty: the store has to know
				}
				s = start(t, cfg)
			}
			s.want(202, "POST", "/events", `[{"id":"end","type":"t"}]`)
			s.eventually("the last event is there", func() error {
				if s.do("GET", "/events/end", "").code != 200 {
					return errors.New("not yet")
				}
				return nil
			})
			if got := s.countIDs(); got["a"] != 1 || got["b"] != 1 || len(got) != 3 {
				t.Errorf("events %v", got)
			}
			s.halt()
		})
	}
}

func TestATailShowsEventsAsTheyBecomeQueryable(t *testing.T) {
	s := start(t, testConfig(t))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", s.base+"/events/tail?type=wanted", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	response, err := http.DefaultClient.Do(r)
	if err != nil || response.StatusCode != 200 {
		t.Fatalf("%v, %v", response, err)
	}
	defer response.Body.Close()
	s.want(202, "POST", "/events", `[{"id":"no","type":"other"},{"id":"yes","type":"wanted"}]`)
	var seen strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), `"id":"yes"`) {
		n, err := response.Body.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("the stream ended with %v after %q", err, seen.String())
		}
	}
	if strings.Contains(seen.String(), `"id":"no"`) {
		t.Errorf("another type was shown: %s", seen.String())
	}
	s.halt() // also with the stream open
}
