package load

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sort"

	"github.com/cespare/xxhash/v2"
)

// Limits of a payload file. Its events are kept in memory as rendered requests.
const (
	maxCorpusLineBytes = 4 << 20
	maxCorpusBytes     = 64 << 20
)

// sample is one event the generator repeats, without its id and timestamp.
type sample struct {
	// rest is the event's other members as JSON, "type":… first, with neither the
	// braces nor a leading comma.
	rest []byte
	info Payload
}

// Payload says what a stored event made from one sample must look like. It is
// what the acked file keeps of the payload.
type Payload struct {
	Type   string `json:"type"`
	Source string `json:"source,omitempty"`
	// Bytes is the length of the payload as sent.
	Bytes int `json:"bytes"`
	// Hash is the XXH64 of the payload's bytes as sent, in hexadecimal.
	Hash string `json:"hash"`
	// Meaning is the XXH64 of the payload's canonical form (see meaningOf): equal
	// for two texts that differ only in white space and string escapes.
	Meaning string `json:"meaning"`
}

func newPayload(typ, source string, payload []byte) (Payload, error) {
	meaning, err := meaningOf(payload)
	if err != nil {
		return Payload{}, err
	}
	return Payload{Type: typ, Source: source, Bytes: len(payload), Hash: hashHex(xxhash.Sum64(payload)), Meaning: hashHex(meaning)}, nil
}

func hashHex(h uint64) string { return fmt.Sprintf("%016x", h) }

// telemetryTypes are the types of the built-in events, all of one length so that
// every event has about the same size.
var telemetryTypes = [...]string{
	"sensor.reading", "sensor.battery", "sensor.offline", "sensor.restart",
	"engine.reading", "engine.warning", "engine.stopped", "engine.service",
}

// telemetry makes n built-in events of about 480 bytes each, id and timestamp
// included, as a fleet of devices would send them. The same n gives the same
// events on every machine.
func telemetry(n, eventsPerType int) []sample {
	rng := rand.New(rand.NewPCG(20260101, 480))
	out := make([]sample, n)
	for i := range out {
		typ := telemetryTypes[i/eventsPerType%len(telemetryTypes)]
		device := fmt.Sprintf("device-%05d", rng.IntN(100_000))
		payload := fmt.Appendf(nil,
			`{"deviceId":%q,"firmware":"4.%d.%d","site":"hall-%02d","uptimeSec":%d,"batteryPercent":%.1f,"signalDbm":-%d,`+
				`"location":{"lat":%.6f,"lon":%.6f},"readings":[{"name":"temperature","value":%.3f,"unit":"C"},`+
				`{"name":"humidity","value":%.3f,"unit":"%%"},{"name":"pressure","value":%.2f,"unit":"hPa"}],"status":"ok"}`,
			device, 10+rng.IntN(20), rng.IntN(10), rng.IntN(100), 100_000+rng.IntN(900_000), 10+rng.Float64()*89, 40+rng.IntN(50),
			47+rng.Float64()*7, 10+rng.Float64()*5, 15+rng.Float64()*15, 30+rng.Float64()*40, 960+rng.Float64()*39)
		s, err := newSample(typ, device, nil, payload)
		if err != nil {
			panic("load: the built-in event is not JSON: " + err.Error())
		}
		out[i] = s
	}
	return out
}

// newSample renders an event from its parts; more holds further members.
func newSample(typ, source string, more []byte, payload []byte) (sample, error) {
	info, err := newPayload(typ, source, payload)
	if err != nil {
		return sample{}, err
	}
	rest := append([]byte(`"type":`), quote(typ)...)
	if source != "" {
		rest = append(append(rest, `,"source":`...), quote(source)...)
	}
	rest = append(rest, more...)
	rest = append(append(rest, `,"payload":`...), payload...)
	return sample{rest: rest, info: info}, nil
}

func quote(s string) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic("load: a string did not encode: " + err.Error())
	}
	return bytes.TrimRight(buf.Bytes(), "\n")
}

// readCorpus reads a payload file: one JSON object a line, with "type" and
// "payload", and any further envelope members, which are sent along. "id" and
// "timestamp" are the generator's and are replaced. A file that begins as gzip
// is unpacked, whatever its name.
func readCorpus(path string) ([]sample, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("payload file: %w", err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<20)
	var r io.Reader = in
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		if r, err = gzip.NewReader(in); err != nil {
			return nil, fmt.Errorf("payload file %s: %w", path, err)
		}
	}
	var out []sample
	total := 0
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxCorpusLineBytes)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		s, err := parseSample(line)
		if err != nil {
			return nil, fmt.Errorf("payload file %s, line %d: %w", path, n, err)
		}
		if total += len(s.rest); total > maxCorpusBytes {
			return nil, fmt.Errorf("payload file %s: more than %d MiB; use fewer lines, they are repeated", path, maxCorpusBytes>>20)
		}
		out = append(out, s)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("payload file %s: %w (a line may have up to %d MiB)", path, err, maxCorpusLineBytes>>20)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("payload file %s: no events in it; it needs one JSON object a line", path)
	}
	return out, nil
}

func parseSample(line []byte) (sample, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(line, &members); err != nil {
		return sample{}, fmt.Errorf("not a JSON object: %w", err)
	}
	var typ, source string
	if err := json.Unmarshal(members["type"], &typ); err != nil || typ == "" {
		return sample{}, errors.New(`"type" must be a string that is not empty`)
	}
	if raw, ok := members["source"]; ok {
		if err := json.Unmarshal(raw, &source); err != nil {
			return sample{}, errors.New(`"source" must be a string`)
		}
	}
	payload := []byte("null")
	if raw, ok := members["payload"]; ok {
		payload = bytes.Clone(raw)
	}
	for _, own := range []string{"id", "timestamp", "type", "source", "payload"} {
		delete(members, own)
	}
	names := make([]string, 0, len(members))
	for name := range members {
		names = append(names, name)
	}
	sort.Strings(names)
	var more []byte
	for _, name := range names {
		more = append(append(more, ','), quote(name)...)
		more = append(append(more, ':'), members[name]...)
	}
	return newSample(typ, source, more, payload)
}
