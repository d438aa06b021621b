package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/internal/event"
)

// serving is a fixture whose server serves a real listener.
type serving struct {
	*fixture
	addr   string
	cancel context.CancelFunc
	ended  chan error
}

func serve(t *testing.T, change ...func(*Options)) *serving {
	t.Helper()
	f := newFixture(t, change...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &serving{fixture: f, addr: l.Addr().String(), cancel: cancel, ended: make(chan error, 1)}
	go func() { s.ended <- f.server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-s.ended:
		case <-time.After(10 * time.Second):
			t.Error("the server did not end")
		}
	})
	return s
}

// raw sends bytes over a connection of its own and returns it for reading.
func (s *serving) raw(format string, args ...any) (net.Conn, *bufio.Reader) {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintf(conn, format, args...); err != nil {
		s.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func (s *serving) answer(r *bufio.Reader) (*http.Response, []byte) {
	s.t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		s.t.Fatalf("no answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, body
}

const postHead = "POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer writer\r\n"

func TestASlowBodyIsAnswered408AndTheConnectionEnds(t *testing.T) {
	s := serve(t, func(o *Options) { o.BodyTimeout = 100 * time.Millisecond })
	_, r := s.raw(postHead + "Content-Length: 1000\r\n\r\n[")
	resp, body := s.answer(r)
	wantProblemIn(t, resp.StatusCode, resp.Header, body, 408, "slow-body")
	if !resp.Close {
		t.Error("the connection is to be used again, with a body half read")
	}
}

func TestASlowBodyOfAnOperationIsAnswered408(t *testing.T) {
	s := serve(t, func(o *Options) { o.BodyTimeout = 100 * time.Millisecond })
	_, r := s.raw("POST /keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\nContent-Length: 1000\r\n\r\n{")
	resp, body := s.answer(r)
	wantProblemIn(t, resp.StatusCode, resp.Header, body, 408, "slow-body")
}

func TestATruncatedBodyIsAnswered400(t *testing.T) {
	for name, rest := range map[string]string{
		"short of its length":   "Content-Length: 1000\r\n\r\n[",
		"without a last chunk":  "Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n",
		"with a broken chunk":   "Transfer-Encoding: chunked\r\n\r\nzz\r\n[",
		"short and compressed":  "Content-Encoding: gzip\r\nContent-Length: 1000\r\n\r\n" + gzipped(t, batch(5))[:40],
		"chunked, then nothing": "Transfer-Encoding: chunked\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			conn, r := s.raw("%s%s", postHead, rest)
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("no answer: %v", err)
			}
			body, _ := io.ReadAll(resp.Body)
			wantProblemIn(t, resp.StatusCode, resp.Header, body, 400, "truncated-body")
			if len(s.events.bodies) != 0 {
				t.Error("the ingester saw a truncated body")
			}
		})
	}
}

func TestARefusedRequestLeavesTheConnectionUsable(t *testing.T) {
	s := serve(t)
	s.events.admit = &event.Unavailable{Reason: "backlog-full", Detail: "full", RetryAfter: time.Second}
	body := batch(100)
	conn, r := s.raw(postHead+"Content-Length: %d\r\n\r\n%s", len(body), body)
	resp, answer := s.answer(r)
	wantProblemIn(t, resp.StatusCode, resp.Header, answer, 503, "backlog-full")
	s.events.admit = nil
	if _, err := fmt.Fprintf(conn, postHead+"Content-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		t.Fatal(err)
	}
	if resp, answer := s.answer(r); resp.StatusCode != 202 {
		t.Errorf("status %d: %s", resp.StatusCode, answer)
	}
}

func TestARefusalDoesNotWaitForTheBodyItRefuses(t *testing.T) {
	for name, c := range map[string]struct{ head, body string }{
		"of a declared length": {"Content-Length: 14\r\n\r\n", `[{"type":"a"}]`},
		"in chunks":            {"Transfer-Encoding: chunked\r\n\r\n", "e\r\n[{\"type\":\"a\"}]\r\n0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			conn, r := s.raw("%s%s", strings.Replace(postHead, "writer", "nobody", 1), c.head)
			for range 3 {
				resp, body := s.answer(r) // nothing of the body was sent
				wantProblemIn(t, resp.StatusCode, resp.Header, body, 401, "token-malformed")
				if resp.Close {
					t.Fatal("the connection ends")
				}
				if _, err := fmt.Fprint(conn, c.body, strings.Replace(postHead, "writer", "nobody", 1), c.head); err != nil {
					t.Fatal(err)
				}
			}
			s.answer(r)
			if _, err := fmt.Fprint(conn, c.body, postHead, c.head, c.body); err != nil {
				t.Fatal(err)
			}
			if resp, body := s.answer(r); resp.StatusCode != 202 {
				t.Errorf("status %d: %s", resp.StatusCode, body)
			}
		})
	}
}

func TestARefusedBodyThatDoesNotComeEndsTheConnection(t *testing.T) {
	s := serve(t, func(o *Options) { o.BodyTimeout = 100 * time.Millisecond })
	conn, r := s.raw("%s%s", strings.Replace(postHead, "writer", "nobody", 1), "Content-Length: 1000\r\n\r\n")
	resp, body := s.answer(r)
	wantProblemIn(t, resp.StatusCode, resp.Header, body, 401, "token-malformed")
	// What comes now must not be taken for a request.
	if _, err := r.ReadByte(); err == nil {
		t.Error("the connection goes on")
	}
	_, _ = fmt.Fprint(conn, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := http.ReadResponse(r, nil); err == nil {
		t.Error("the rest of a body was answered as a request")
	}
}

func TestARefusedBodyThatIsTooLongEndsTheConnectionInGoodOrder(t *testing.T) {
	const size = 512 << 10
	for name, head := range map[string]string{
		"of a declared length": fmt.Sprintf("Content-Length: %d\r\n\r\n", size),
		"in chunks":            fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", size),
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			conn, r := s.raw("%s%s", strings.Replace(postHead, "writer", "nobody", 1), head)
			resp, body := s.answer(r)
			wantProblemIn(t, resp.StatusCode, resp.Header, body, 401, "token-malformed")
			_, _ = conn.Write(make([]byte, size)) // fails somewhere, or not
			if _, err := r.ReadByte(); err == nil {
				t.Error("the connection goes on")
			}
		})
	}
}

func TestAClientThatAsksBeforeItSendsIsNotAskedForWhatIsRefused(t *testing.T) {
	s := serve(t)
	_, r := s.raw("%s%s", strings.Replace(postHead, "writer", "nobody", 1), "Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
	resp, body := s.answer(r) // and no 100 before it
	wantProblemIn(t, resp.StatusCode, resp.Header, body, 401, "token-malformed")
}

func TestTheTimeForTheBodyDoesNotEndTheTimeForTheAnswer(t *testing.T) {
	// The deadline for reading also watches the connection while the handler
	// works; it must be gone once the body is there.
	s := serve(t, func(o *Options) { o.BodyTimeout = 80 * time.Millisecond })
	s.events.begun, s.events.release = make(chan struct{}, 1), make(chan struct{})
	_, r := s.raw(postHead + "Content-Length: 14\r\n\r\n[{\"type\":\"a\"}]")
	<-s.events.begun
	timer := time.AfterFunc(200*time.Millisecond, func() { close(s.events.release) })
	defer timer.Stop()
	resp, body := s.answer(r)
	if resp.StatusCode != 202 || resp.Close {
		t.Errorf("status %d, close %v: %s", resp.StatusCode, resp.Close, body)
	}
}

func TestABodyBeyondTheLimitWithoutALengthIsAnswered413(t *testing.T) {
	s := serve(t)
	const size = 1<<20 + 1
	_, r := s.raw(postHead+"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s", size, strings.Repeat(" ", size))
	resp, body := s.answer(r)
	wantProblemIn(t, resp.StatusCode, resp.Header, body, 413, "body-too-large")
	if !resp.Close {
		t.Error("the connection is to be used again, with a body half read")
	}
}

func TestAHeaderThatIsTooLargeIsRefused(t *testing.T) {
	s := serve(t, func(o *Options) { o.MaxHeaderBytes = 4 << 10 })
	_, r := s.raw("GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: %s\r\n\r\n", strings.Repeat("a", 16<<10))
	if resp, _ := s.answer(r); resp.StatusCode != 431 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestASlowHeaderEndsTheConnection(t *testing.T) {
	s := serve(t, func(o *Options) { o.HeaderTimeout = 50 * time.Millisecond })
	_, r := s.raw("GET /livez HTTP/1.1\r\nHost:")
	if _, err := r.ReadByte(); err == nil {
		t.Error("an answer came to half a header")
	}
}

func TestHTTP2WorksWithoutTLS(t *testing.T) {
	s := serve(t)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p}
	defer tr.CloseIdleConnections()
	body := batch(100)
	for range 3 {
		req, _ := http.NewRequest("POST", "http://"+s.addr+"/events", bytes.NewReader(body))
		req.Header.Set("Authorization", "Bearer writer")
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.StatusCode != 202 {
			t.Fatalf("%s, status %d: %s", resp.Proto, resp.StatusCode, answer)
		}
	}
	// A refusal of one stream must leave the connection to the others.
	req, _ := http.NewRequest("POST", "http://"+s.addr+"/events", bytes.NewReader(make([]byte, 2<<20)))
	req.Header.Set("Authorization", "Bearer writer")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	wantProblemIn(t, resp.StatusCode, resp.Header, answer, 413, "body-too-large")
}

func TestASlowBodyOverHTTP2IsAnswered408(t *testing.T) {
	s := serve(t, func(o *Options) { o.BodyTimeout = 100 * time.Millisecond })
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p}
	defer tr.CloseIdleConnections()
	pr, pw := io.Pipe()
	defer pw.Close()
	req, _ := http.NewRequest("POST", "http://"+s.addr+"/events", pr)
	req.Header.Set("Authorization", "Bearer writer")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	wantProblemIn(t, resp.StatusCode, resp.Header, body, 408, "slow-body")
}

func TestAPanicIsAnswered500AndLogged(t *testing.T) {
	s := serve(t)
	s.events.panics = true
	conn, r := s.raw(postHead + "Content-Length: 2\r\n\r\n[]")
	resp, body := s.answer(r)
	p := wantProblemIn(t, resp.StatusCode, resp.Header, body, 500, "internal")
	log := s.logs.String()
	if strings.Contains(string(body), "boom") || !strings.Contains(log, "boom") || !strings.Contains(log, "Ingest") || !strings.Contains(log, p.Instance) {
		t.Errorf("the panic, its stack and the request id belong into the log and not into the answer %s\n%s", body, log)
	}
	if _, err := fmt.Fprint(conn, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if resp, _ := s.answer(r); resp.StatusCode != 200 {
		t.Error("the server does not go on after a panic")
	}
}

// writeCert writes a self-signed certificate with a serial number of its own.
func writeCert(t *testing.T, dir string, serial int64) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "millrace"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestACertificateIsLoadedAgainWhenItsFileChanges(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := writeCert(t, dir, 1)
	s := serve(t, func(o *Options) { o.CertFile, o.KeyFile = certFile, keyFile })
	now := time.Now()
	s.server.cert.mu.Lock()
	s.server.cert.now = func() time.Time { now = now.Add(2 * time.Second); return now }
	s.server.cert.mu.Unlock()
	serial := func() int64 {
		t.Helper()
		conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if p := conn.ConnectionState().NegotiatedProtocol; p != "h2" {
			t.Errorf("negotiated %q, want h2", p)
		}
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Fatalf("serial %d, want 1", got)
	}
	writeCert(t, dir, 2)
	later := time.Now().Add(time.Minute)
	for _, name := range []string{certFile, keyFile} { // file times may be coarse
		if err := os.Chtimes(name, later, later); err != nil {
			t.Fatal(err)
		}
	}
	if got := serial(); got != 2 {
		t.Errorf("serial %d after the files changed, want 2", got)
	}
	if err := os.WriteFile(certFile, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("serial %d with a broken file, want the old one", got)
	}
	serial()
	if n := strings.Count(s.logs.String(), "loaded again"); n != 1 {
		t.Errorf("one change was loaded %d times", n)
	}
	if n := strings.Count(s.logs.String(), "cannot be loaded"); n != 1 {
		t.Errorf("one broken file was told %d times", n)
	}
}

func TestHTTPSAnswersOverHTTP2WithStrictTransportSecurity(t *testing.T) {
	certFile, keyFile := writeCert(t, t.TempDir(), 1)
	s := serve(t, func(o *Options) { o.CertFile, o.KeyFile = certFile, keyFile })
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("https://" + s.addr + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("%s, headers %v", resp.Proto, resp.Header)
	}
}

func TestAWrongCertificateIsToldAtStart(t *testing.T) {
	f := newFixture(t)
	o := f.server.o
	o.CertFile, o.KeyFile = "/nowhere/cert.pem", "/nowhere/key.pem"
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "/nowhere/cert.pem") {
		t.Errorf("error %v", err)
	}
}

func TestTheWayDownLosesNothing(t *testing.T) {
	s := serve(t)
	s.events.begun, s.events.release = make(chan struct{}, 1), make(chan struct{})
	s.reader.ended = make(chan error, 1)

	_, tail := s.raw("GET /events/tail HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer reader\r\n\r\n")
	tailed, err := http.ReadResponse(tail, nil)
	if err != nil {
		t.Fatal(err)
	}
	stream := bufio.NewReader(tailed.Body)
	if line, err := stream.ReadString('\n'); err != nil || line != "retry: 2000\n" {
		t.Fatalf("stream begins with %q, %v", line, err)
	}
	_, inFlight := s.raw(postHead + "Content-Length: 14\r\n\r\n[{\"type\":\"a\"}]")
	<-s.events.begun

	s.cancel() // the tail ends, the request in flight does not
	rest, err := io.ReadAll(stream)
	if err != nil {
		t.Fatalf("the tail was cut: %v", err)
	}
	if !strings.Contains(string(rest), "event: end\ndata: {") || !strings.Contains(string(rest), "shutting-down") {
		t.Errorf("the tail ended without a word: %q", rest)
	}
	if err := <-s.reader.ended; err != nil {
		t.Errorf("the reader's tail ended with %v", err)
	}
	select {
	case err := <-s.ended:
		t.Fatalf("the server ended with a request in flight: %v", err)
	default:
	}
	if w := s.call("GET", "/readyz", ""); w.Code != 503 || !strings.Contains(w.Body.String(), "shutting down") {
		t.Errorf("readyz while draining: %d %s", w.Code, w.Body)
	}
	close(s.events.release)
	if resp, body := s.answer(inFlight); resp.StatusCode != 202 {
		t.Errorf("status %d: %s", resp.StatusCode, body)
	}
	if err := <-s.ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
	s.ended <- nil // for the cleanup
	if _, err := net.Dial("tcp", s.addr); err == nil {
		t.Error("the server still listens")
	}
}

func TestWhatOutlastsTheDrainIsCut(t *testing.T) {
	s := serve(t, func(o *Options) { o.DrainTimeout = 50 * time.Millisecond })
	s.events.begun, s.events.release = make(chan struct{}, 1), make(chan struct{})
	defer close(s.events.release)
	s.raw(postHead + "Content-Length: 2\r\n\r\n[]")
	<-s.events.begun
	s.cancel()
	err := <-s.ended
	s.ended <- nil
	if err == nil || !strings.Contains(err.Error(), "in flight") {
		t.Errorf("Serve: %v", err)
	}
}
