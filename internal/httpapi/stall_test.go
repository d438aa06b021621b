package httpapi

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// h2c is a client that speaks HTTP/2 without TLS.
func h2c(t *testing.T) *http.Transport {
	t.Helper()
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func TestABodyThatFailsDoesNotHoldItsConnection(t *testing.T) {
	for _, c := range []struct{ name, head, body string }{
		{"that stalls", "Content-Length: 1000\r\n\r\n", "["},
		{"that stalls and is long", "Content-Length: 500000\r\n\r\n", "["},
		{"that stalls between chunks", "Transfer-Encoding: chunked\r\n\r\n", "1\r\n[\r\n"},
		{"of corrupt gzip with a rest that does not come", "Content-Encoding: gzip\r\nContent-Length: 1000\r\n\r\n", "this is not gzip"},
		{"of corrupt gzip in chunks with a rest that does not come", "Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", "10\r\nthis is not gzip\r\n"},
		{"of corrupt zstd with a rest that does not come", "Content-Encoding: zstd\r\nContent-Length: 1000\r\n\r\n", "this is not zstd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, func(o *Options) { o.BodyTimeout = 100 * time.Millisecond })
			conn, r := s.raw("%s%s%s", postHead, c.head, c.body)
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("no answer: %v", err)
			}
			if resp.StatusCode != 408 && resp.StatusCode != 400 {
				t.Errorf("status %d", resp.StatusCode)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatal(err)
			}
			if _, err := r.ReadByte(); err == nil || isTimeout(err) {
				t.Errorf("the connection is still open, waiting for a body that does not come: %v", err)
			}
		})
	}
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}

func TestAQuietTailOverHTTP2OutlivesTheTimeToWrite(t *testing.T) {
	s := serve(t, func(o *Options) { o.TailWriteTimeout, o.TailHeartbeat = 50*time.Millisecond, 300*time.Millisecond })
	req, _ := http.NewRequest("GET", "http://"+s.addr+"/events/tail", nil)
	req.Header.Set("Authorization", "Bearer reader")
	resp, err := h2c(t).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	for beats := 0; beats < 3; {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("the stream ended after %d heartbeats: %v", beats, err)
		}
		if strings.HasPrefix(line, ": ") {
			beats++
		}
	}
	if resp.ProtoMajor != 2 {
		t.Errorf("spoke %s", resp.Proto)
	}
}
