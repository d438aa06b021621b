package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// rawServer answers each request on each connection with the next of the texts,
// and closes a connection when it has none left.
func rawServer(t *testing.T, answers ...string) *conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			br := bufio.NewReader(nc)
			for len(answers) > 0 {
				r, err := http.ReadRequest(br)
				if err != nil {
					break
				}
				_, _ = io.Copy(io.Discard, r.Body)
				text := answers[0]
				answers = answers[1:]
				_, _ = io.WriteString(nc, text)
				if strings.HasSuffix(text, "<close>") || strings.Contains(text, "Connection: close") {
					break
				}
			}
			_ = nc.Close()
		}
	}()
	d, err := newDialer(mustURL(t, "http://"+l.Addr().String()), nil, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c := newConn(d)
	t.Cleanup(c.close)
	return c
}

const tinyRequest = "POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]"

func TestAConnectionReadsEveryKindOfAnswerAndGoesOn(t *testing.T) {
	c := rawServer(t,
		"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 503 Service Unavailable\r\ncontent-LENGTH: 0\r\nRETRY-AFTER: 7\r\n\r\n",
		"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nTrailer: t\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
		"HTTP/1.0 200 OK\r\n\r\nuntil the <close>",
		"HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\n\r\nlast",
	)
	type got struct {
		Status int
		Retry  time.Duration
		Body   string
	}
	var all []got
	for i := range 7 {
		a, err := c.roundTrip(context.Background(), []byte(tinyRequest), 5*time.Second)
		if err != nil {
			t.Fatalf("round trip %d: %v", i, err)
		}
		all = append(all, got{a.status, a.retryAfter, string(a.body)})
	}
	want := []got{{202, 0, "hello"}, {503, 7 * time.Second, ""}, {202, 0, "abcdefg"}, {204, 0, ""}, {202, 0, "ok"}, {200, 0, "until the <close>"}, {202, 0, "last"}}
	if d := cmp.Diff(want, all); d != "" {
		t.Errorf("answers (-want +got):\n%s", d)
	}
}

func TestAnAnswerThatIsNoneLeavesTheOutcomeUnknown(t *testing.T) {
	for name, text := range map[string]string{
		"not HTTP":            "SSH-2.0-OpenSSH_9.6 hello there\r\n",
		"cut in the head":     "HTTP/1.1 202 Acc<close>",
		"cut in the body":     "HTTP/1.1 202 Accepted\r\nContent-Length: 50\r\n\r\nx<close>",
		"cut in a chunk":      "HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc<close>",
		"bad length":          "HTTP/1.1 202 Accepted\r\nContent-Length: x\r\n\r\n",
		"bad status":          "HTTP/1.1 abc Accepted\r\n\r\n",
		"too long a body":     "HTTP/1.1 202 Accepted\r\nContent-Length: 99999999\r\n\r\n",
		"nothing but a close": "<close>",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rawServer(t, text).roundTrip(context.Background(), []byte(tinyRequest), 5*time.Second)
			var se *sendError
			if !errors.As(err, &se) || se.nothingSent {
				t.Fatalf("error is %v", err)
			}
			if o := judge(answer{}, err); o != unknown {
				t.Errorf("outcome is %d, want unknown", o)
			}
		})
	}
}

func TestNobodyListeningMeansThatNothingWasSent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	d, err := newDialer(mustURL(t, "http://"+address), nil, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_, err = newConn(d).roundTrip(context.Background(), []byte(tinyRequest), time.Second)
	if o := judge(answer{}, err); o != unreached {
		t.Errorf("outcome of %v is %d, want unreached", err, o)
	}
}

func TestASilentServerEndsInATimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, _ := newDialer(mustURL(t, "http://"+l.Addr().String()), nil, time.Second)
	c := newConn(d)
	_, err = c.roundTrip(context.Background(), []byte(tinyRequest), 50*time.Millisecond)
	var ne net.Error
	if !errors.As(err, &ne) || !ne.Timeout() {
		t.Fatalf("error is %v, want a timeout", err)
	}
	if c.nc != nil {
		t.Error("the connection is kept although an answer may still come")
	}
}

func TestARefusalBeforeTheBodyIsReadIsSeen(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer s.Close()
	d, _ := newDialer(mustURL(t, s.URL), nil, time.Second)
	c := newConn(d)
	defer c.close()
	body := strings.Repeat("x", 8<<20) // more than the server drains
	request := fmt.Sprintf("POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	for range 2 {
		a, err := c.roundTrip(context.Background(), []byte(request), 5*time.Second)
		if err != nil || a.status != 503 || a.retryAfter != 3*time.Second {
			t.Fatalf("answer %+v, %v", a, err)
		}
	}
}

func TestAnHTTPSServerIsSpokenToInHTTP11(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	d, _ := newDialer(mustURL(t, s.URL), s.Client().Transport.(*http.Transport).TLSClientConfig, time.Second)
	c := newConn(d)
	defer c.close()
	a, err := c.roundTrip(context.Background(), []byte(tinyRequest), 5*time.Second)
	if err != nil || string(a.body) != "HTTP/1.1" {
		t.Fatalf("answer %q, %v", a.body, err)
	}
}

func TestRetryAfterIsSecondsOrADate(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"5": 5 * time.Second, "0": 0, "-1": 0, "soon": 0, "": 0,
		"Sun, 22 Nov 2026 10:00:30 GMT": 30 * time.Second,
		"Sun, 22 Nov 2026 09:00:00 GMT": 0,
	} {
		if got := parseRetryAfter(value, now); got != want {
			t.Errorf("Retry-After %q is %s, want %s", value, got, want)
		}
	}
}

func TestTheOutcomeOfAnAnswerIsWhatItSays(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   outcome
	}{
		"202 is accepted":        {202, "", accepted},
		"429 is refused":         {429, "", refused},
		"503 is refused":         {503, `{"type":"https://millrace.dev/problems/backlog-full"}`, refused},
		"503 that does not know": {503, `{"type":"https://millrace.dev/problems/outcome-unknown"}`, unknown},
		"500 leaves it open":     {500, "", unknown},
		"502 leaves it open":     {502, "", unknown},
		"400 has failed":         {400, "", failed},
		"422 has failed":         {422, "", failed},
	} {
		t.Run(name, func(t *testing.T) {
			if got := judge(answer{status: c.status, body: []byte(c.body)}, nil); got != c.want {
				t.Errorf("outcome is %d, want %d", got, c.want)
			}
		})
	}
}

func TestTheVerdictOnABatchIsReadAndChecked(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want verdict
		err  string
	}{
		"all accepted":   {`{"batchId":"x","accepted":10,"rejected":[]}`, verdict{accepted: 10}, ""},
		"with repeats":   {`{"batchId":"x","accepted":10,"duplicates":4,"rejected":[]}`, verdict{accepted: 10, duplicates: 4}, ""},
		"one rejected":   {`{"accepted":9,"rejected":[{"index":3,"id":"i","reason":"r"}]}`, verdict{accepted: 9, rejected: []rejection{{3, "i", "r"}}}, ""},
		"spaced":         {`{ "accepted" : 10, "rejected" : [ ] }`, verdict{accepted: 10, rejected: []rejection{}}, ""},
		"too few":        {`{"accepted":9,"rejected":[]}`, verdict{}, "accepted 9 events and rejected 0 of a batch of 10"},
		"empty":          {``, verdict{}, "without"},
		"no count":       {`{"rejected":[]}`, verdict{}, "without"},
		"index too high": {`{"accepted":9,"rejected":[{"index":10}]}`, verdict{}, "rejected event 10"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseVerdict([]byte(c.body), 10)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error is %v, want %q in it", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got, cmp.AllowUnexported(verdict{})); d != "" {
				t.Errorf("verdict (-want +got):\n%s", d)
			}
		})
	}
}

func TestAnAnswerThatNeverHasABodyLeavesTheConnectionOpen(t *testing.T) {
	c := rawServer(t,
		"HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"v2\"\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast",
	)
	var first net.Conn
	for i, want := range []string{"304 \"v1\" ", "304 \"v2\" ", "204  ", "200  last"} {
		a, err := c.roundTrip(context.Background(), []byte(tinyRequest), 5*time.Second)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if got := fmt.Sprintf("%d %s %s", a.status, a.etag, a.body); got != want {
			t.Errorf("answer %d is %q, want %q", i, got, want)
		}
		if first == nil {
			first = c.nc
		}
		if c.nc == nil || c.nc != first {
			t.Fatalf("answer %d closed the connection", i)
		}
	}
}
