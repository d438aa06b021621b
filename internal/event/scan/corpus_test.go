package scan

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// telemetryBatch returns a batch of events of about 480 bytes each, as a device
// fleet sends them.
func telemetryBatch(events int) []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	start := time.Date(2026, 11, 22, 5, 4, 22, 0, time.UTC)
	var b bytes.Buffer
	for i := range events {
		at := start.Add(time.Duration(i) * 137 * time.Millisecond).Format("2006-01-02T15:04:05.000Z07:00")
		sep := byte(',')
		if i == 0 {
			sep = '['
		}
		b.WriteByte(sep)
		fmt.Fprintf(&b, `{"id":"01939f%02x-%04x-7%03x-8%03x-%012x","type":"telemetry.reading","source":"device/%06d","timestamp":"%s","tenantId":"demo",`+
			`"payload":{"deviceId":"sensor-%06d","firmware":"4.%d.%d","site":{"country":"DE","city":"Köln","building":%d},`+
			`"readings":[{"name":"temperature","value":%.2f,"unit":"C"},{"name":"humidity","value":%.1f,"unit":"%%"},{"name":"pressure","value":%.2f,"unit":"hPa"}],`+
			`"battery":%d,"signal":-%d,"charging":%v,"error":null}}`,
			rnd.IntN(256), rnd.IntN(65536), rnd.IntN(4096), rnd.IntN(4096), rnd.Int64N(1<<48), rnd.IntN(1e6), at,
			rnd.IntN(1e6), rnd.IntN(10), rnd.IntN(30), rnd.IntN(40),
			rnd.Float64()*40-5, rnd.Float64()*100, 950+rnd.Float64()*100,
			rnd.IntN(101), 30+rnd.IntN(60), rnd.IntN(2) == 0)
	}
	b.WriteByte(']')
	return b.Bytes()
}

// webhooks returns the events of the webhook corpus, one a line.
func webhooks(t testing.TB) [][]byte {
	t.Helper()
	f, err := os.Open("testdata/github-webhooks.ndjson.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(bytes.TrimSpace(all), []byte("\n"))
}

// webhookBatches returns the webhook corpus as arrays of twenty events.
func webhookBatches(t testing.TB) [][]byte {
	t.Helper()
	var batches [][]byte
	for lines := webhooks(t); len(lines) >= 20; lines = lines[20:] {
		body := append([]byte{'['}, bytes.Join(lines[:20], []byte{','})...)
		batches = append(batches, append(body, ']'))
	}
	return batches
}

// suiteFile is one file of JSONTestSuite.
type suiteFile struct {
	name string // without folder; y_, n_ or i_ first
	text []byte
}

func suite(t testing.TB) []suiteFile {
	t.Helper()
	f, err := os.Open("testdata/jsontestsuite.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var files []suiteFile
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg || h.Name == "LICENSE" {
			continue
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, suiteFile{h.Name[len("test_parsing/"):], text})
	}
}
