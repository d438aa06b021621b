package httpapi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"millrace/internal/limit"
)

func bytesBound(t testing.TB, n int64) *limit.Bytes {
	t.Helper()
	b, err := limit.NewBytes("bodies", n, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// stalled is a request whose body brings what it has and then nothing, until it
// is released.
type stalled struct {
	sent    io.Reader
	waits   chan struct{} // closed when all was read
	release chan struct{}
	once    sync.Once
}

func (s *stalled) Read(p []byte) (int, error) {
	if n, err := s.sent.Read(p); err == nil {
		return n, nil
	}
	s.once.Do(func() { close(s.waits) })
	<-s.release
	return 0, io.ErrUnexpectedEOF
}

func (s *stalled) Close() error { return nil }

// stall sends a request that announces a length, sends a part and stalls; it
// returns when all of the part was read.
func stall(t *testing.T, f *fixture, target, part string, length int64, headers ...string) {
	t.Helper()
	body := &stalled{sent: strings.NewReader(part), waits: make(chan struct{}), release: make(chan struct{})}
	req := httptest.NewRequest("POST", target, nil)
	req.Body, req.ContentLength = body, length
	req.Header.Set("Authorization", "Bearer admin")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w := httptest.NewRecorder()
		f.server.Handler().ServeHTTP(w, req)
		body.once.Do(func() { t.Errorf("refused at once: %d %s", w.Code, w.Body); close(body.waits) })
	}()
	<-body.waits
	t.Cleanup(func() { close(body.release); <-done })
}

func TestWhatIsAnnouncedButNotSentHoldsNoMemory(t *testing.T) {
	for _, encoding := range []string{"identity", "gzip", "zstd"} {
		t.Run(encoding, func(t *testing.T) {
			bound := bytesBound(t, 64<<20)
			f := newFixture(t, func(o *Options) { o.Bytes = bound })
			for range 200 {
				stall(t, f, "/hooks/github", "", 1<<20, "Content-Encoding", encoding)
			}
			if held := bound.InFlight(); held > 200*4<<10 {
				t.Errorf("200 requests that sent nothing hold %d bytes", held)
			}
			if w := f.call("POST", "/events", string(batch(100))); w.Code != 202 {
				t.Errorf("status %d: %s", w.Code, w.Body)
			}
		})
	}
}

func TestOneHolderOfMemoryLeavesTheOthersTheirs(t *testing.T) {
	part := strings.Repeat(" ", 600<<10) // takes a buffer of 1 MiB
	for _, c := range []struct{ name, target string }{{"a tenant", "/events"}, {"a webhook source", "/hooks/github"}} {
		t.Run(c.name, func(t *testing.T) {
			bound := bytesBound(t, 16<<20)
			f := newFixture(t, func(o *Options) { o.Bytes = bound })
			for range 3 {
				stall(t, f, c.target, part, 1<<20)
			}
			p := wantProblem(t, f.call("POST", c.target, part), 503, "overloaded")
			if p.RetryAfter == 0 || !strings.Contains(p.Detail, "share") {
				t.Errorf("%+v", p)
			}
			if w := f.call("POST", "/events", `[{"type":"a"}]`+part, "Authorization", "Bearer other"); w.Code != 202 {
				t.Errorf("another tenant is answered %d: %s", w.Code, w.Body)
			}
			if c.target != "/events" {
				if w := f.call("POST", "/events", `[{"type":"a"}]`+part); w.Code != 202 {
					t.Errorf("the source's own tenant is answered %d: %s", w.Code, w.Body)
				}
			}
		})
	}
}

func TestAHolderMayAlwaysSendOneBodyOfTheLargestSize(t *testing.T) {
	bound := bytesBound(t, 4<<20)
	f := newFixture(t, func(o *Options) { o.Bytes = bound })
	body := append([]byte(`[{"type":"a"}]`), bytes.Repeat([]byte(" "), 1<<20-14)...)
	for encoding, packed := range map[string]string{"": string(body), "gzip": gzipped(t, body), "zstd": zstded(t, body)} {
		for range 2 {
			if w := f.call("POST", "/events", packed, "Content-Encoding", encoding); w.Code != 202 {
				t.Errorf("%q: status %d: %s", encoding, w.Code, w.Body)
			}
		}
	}
	if bound.InFlight() != 0 || len(f.server.bodies.shares.held) != 0 {
		t.Errorf("%d bytes are still held, by %v", bound.InFlight(), f.server.bodies.shares.held)
	}
}

// rawFrame is a zstd frame without a content size, with a window of 2^exponent
// bytes and one block that holds the text as it is.
func rawFrame(exponent int, text string) string {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, byte(exponent-10) << 3}
	var block [4]byte
	binary.LittleEndian.PutUint32(block[:], uint32(len(text))<<3|1)
	return string(append(append(b, block[:3]...), text...))
}

func TestAZstdWindowCostsNoMemory(t *testing.T) {
	f := newFixture(t)
	body := rawFrame(23, `[{"type":"a"}]`)
	send := func() {
		if w := f.call("POST", "/events", body, "Content-Encoding", "zstd"); w.Code != 202 {
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
	}
	send()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const n = 8
	for range n {
		f.server.decoders = decoders{maxBytes: f.server.o.MaxBodyBytes} // each with a decoder of its own
		send()
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / n; each > zstdDecoderBytes+64<<10 {
		t.Errorf("a frame with a window of 8 MiB allocated %d bytes, which are accounted as %d", each, zstdDecoderBytes)
	}
}

func TestAZstdWindowBeyondWhatIsSupportedIsRefusedWithTheMend(t *testing.T) {
	f := newFixture(t)
	p := wantProblem(t, f.call("POST", "/events", rawFrame(24, "[]"), "Content-Encoding", "zstd"), 400, "corrupt-encoding")
	if !strings.Contains(p.Detail, "window") || !strings.Contains(p.Detail, "level 19") {
		t.Errorf("detail %q", p.Detail)
	}
	// A frame that says itself that it is too large is not even begun.
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0}
	wantProblem(t, f.call("POST", "/events", string(frame), "Content-Encoding", "zstd"), 413, "body-too-large")
}

func TestEveryUsualZstdStreamIsDecompressed(t *testing.T) {
	body := batch(100)
	large := append(batch(100), bytes.Repeat([]byte(" \n"), 450<<10)...)
	for name, text := range map[string][]byte{"48 KB": body, "1 MB": large} {
		for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBestCompression} {
			for _, window := range []int{1 << 10, 128 << 10, 8 << 20} {
				t.Run(fmt.Sprint(name, " ", level, " ", window), func(t *testing.T) {
					w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithWindowSize(window))
					if err != nil {
						t.Fatal(err)
					}
					var streamed bytes.Buffer
					w.Reset(&streamed)
					_, _ = w.Write(text)
					if err := w.Close(); err != nil {
						t.Fatal(err)
					}
					half := len(text) / 2
					for kind, packed := range map[string][]byte{"streamed": streamed.Bytes(), "in one piece": w.EncodeAll(text, nil),
						"in two frames": w.EncodeAll(text[half:], w.EncodeAll(text[:half], nil))} {
						wantDecoded(t, kind, packed, text)
					}
				})
			}
		}
	}
}

// The files are what `zstd -1|-3|-19 -c` made of this text on its standard input,
// where it does not know the size and declares a window of up to 8 MiB.
func TestTheOutputOfTheZstdCommandIsDecompressed(t *testing.T) {
	text := []byte("[" + strings.Repeat(`{"type":"t","payload":{"answer":42}},`, 99) + `{"type":"t"}]` + strings.Repeat(" \n", 450<<10))
	for _, level := range []string{"1", "3", "19"} {
		packed, err := os.ReadFile("testdata/level-" + level + ".json.zst")
		if err != nil {
			t.Fatal(err)
		}
		wantDecoded(t, level, packed, text)
	}
}

func wantDecoded(t *testing.T, kind string, packed, text []byte) {
	t.Helper()
	f := newFixture(t)
	w := f.call("POST", "/events", string(packed), "Content-Encoding", "zstd")
	if w.Code != http.StatusAccepted {
		t.Errorf("%s: status %d: %s", kind, w.Code, w.Body)
	} else if !bytes.Equal(f.events.bodies[0], text) {
		t.Errorf("%s: the body is not what was compressed", kind)
	}
}
