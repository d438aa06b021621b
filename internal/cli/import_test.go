package cli

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/config"
)

// fakeImports takes imports as the control API does, and keeps the lines.
type fakeImports struct {
	lines    []string        // as they came
	requests []string        // path and query
	tenants  map[string]bool // that were named
	applied  map[string]bool // by import id and line
	refuse   map[int64]string
	fail     int // answers 503 from this request on, 0 for never
	largest  int
}

func (f *fakeImports) deps() Deps {
	f.tenants, f.applied = map[string]bool{}, map[string]bool{}
	return Deps{Control: func(context.Context, *config.Config) (*http.Client, string, func() error, error) {
		return &http.Client{Transport: f}, "http://control", func() error { return nil }, nil
	}}
}

func (f *fakeImports) RoundTrip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	f.requests = append(f.requests, r.URL.RequestURI())
	f.tenants[r.Header.Get(tenantHeader)] = true
	f.largest = max(f.largest, len(body))
	w := httptest.NewRecorder()
	if f.fail > 0 && len(f.requests) >= f.fail {
		w.WriteHeader(503)
		_, _ = io.WriteString(w, `{"title":"The database does not take writes now","retryAfter":2}`)
		return w.Result(), nil
	}
	results := []map[string]any{}
	for text := range strings.Lines(string(body)) {
		var line struct{ Line int64 }
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			return nil, err
		}
		f.lines = append(f.lines, strings.TrimSpace(text))
		result := map[string]any{"line": line.Line, "applied": true}
		key := fmt.Sprint(r.URL.Query().Get("importId"), line.Line)
		switch {
		case f.refuse[line.Line] != "":
			result["applied"], result["error"] = false, f.refuse[line.Line]
		case f.applied[key]:
			result["repeated"] = true
		}
		f.applied[key] = true
		results = append(results, result)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"results": results})
	return w.Result(), nil
}

// write writes a file for an import and returns its name.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func zipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const someProducts = "\xef\xbb\xbfsku,name,name.de,description.en,price,currency,category,position,slug,active,attributes\r\n" +
	`tee,Tee,"T-Shirt, schwarz",,19.9,EUR,clothing,-7,black-tee,FALSE,"{""size"":""M""}"` + "\r\n" +
	"\r\n" +
	"mug,Mug,,\"Two\nlines\",7,EUR,,,,,\r\n"

var someProductLines = []string{
	`{"active":false,"attributes":{"size":"M"},"category":"clothing","line":2,"names":{"de":"T-Shirt, schwarz","en":"Tee"},"position":-7,"price":{"amount":1990,"currency":"EUR"},"sku":"tee","slug":"black-tee"}`,
	`{"descriptions":{"en":"Two\nlines"},"line":4,"names":{"en":"Mug"},"price":{"amount":700,"currency":"EUR"},"sku":"mug"}`,
}

func TestProductsAreImportedFromCSV(t *testing.T) {
	for _, c := range []struct {
		name, file, content string
		args                []string
		stdin               string
	}{
		{"from a file", "p.csv", someProducts, nil, ""},
		{"from a compressed file", "p.csv.gz", zipped(t, someProducts), nil, ""},
		{"from a file with another name", "products", someProducts, []string{"--format", "csv"}, ""},
		{"from standard input", "", "", []string{"--format", "csv"}, someProducts},
		{"from standard input, compressed", "", "", []string{"--format", "csv"}, zipped(t, someProducts)},
	} {
		t.Run(c.name, func(t *testing.T) {
			api, name := &fakeImports{}, "-"
			if c.file != "" {
				name = write(t, c.file, c.content)
			}
			r := invocation{deps: api.deps(), stdin: c.stdin}.run(t, append([]string{"import", "products", name}, c.args...)...)
			if diff := cmp.Diff(result{Out: "2 lines: 2 applied, 0 unchanged, 0 refused.\n"}, r); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(someProductLines, api.lines); diff != "" {
				t.Error(diff)
			}
			if !api.tenants["demo"] || len(api.tenants) != 1 || api.requests[0] != "/control/import/products" {
				t.Errorf("requests %v for %v", api.requests, api.tenants)
			}
		})
	}
}

func TestOtherSeparatorsAreUnderstood(t *testing.T) {
	for _, separator := range []string{";", "\t"} {
		api := &fakeImports{}
		content := strings.ReplaceAll("sku,onHand\ntee,5\n", ",", separator)
		if r := (invocation{deps: api.deps()}).run(t, "import", "stock", write(t, "s.csv", content)); r.Code != 0 || len(api.lines) != 1 || api.lines[0] != `{"line":2,"onHand":5,"sku":"tee"}` {
			t.Errorf("%q: %+v, lines %v", separator, r, api.lines)
		}
	}
}

func TestBadLinesAreToldAndTheRestIsImported(t *testing.T) {
	const content = "sku,name,amount,price,currency,active,attributes\n" +
		"a,A,1,,EUR,,\n" + // 2
		"b,B,,,EUR,,\n" + // 3: no price
		"c,C,1,1.00,EUR,,\n" + // 4: two prices
		"d,D,1.5,,EUR,,\n" + // 5
		"e,E,,1.999,EUR,,\n" + // 6
		"f,F,,\"1,99\",EUR,,\n" + // 7
		"g,G,1,,,,\n" + // 8
		"h,H,1,,EUR,perhaps,\n" + // 9
		"i,I,1,,EUR,,{\n" + // 10
		"j,J,1\n" + // 11: too few columns
		"k,\xff,1,,EUR,,\n" + // 12
		"l,\"L\"x,1,,EUR,,\n" + // 13
		"m,M,1,,EUR,,\n" + // 14: refused by the server
		"n,N,1,,EUR,,\n" // 15
	api := &fakeImports{refuse: map[int64]string{14: "price.amount: is too large"}}
	name := write(t, "p.csv", content)
	r := invocation{deps: api.deps()}.run(t, "import", "products", name)
	if r.Code != ExitFailure || r.Out != "14 lines: 2 applied, 0 unchanged, 12 refused.\n" {
		t.Errorf("%+v", r)
	}
	for _, want := range []string{"line 3: give amount", "line 4: give amount", `line 5: amount is "1.5"`, `line 6: price is "1.999"`, `line 7: price is "1,99"`,
		"line 8: currency is missing", `line 9: active is "perhaps"`, "line 10: attributes is no JSON", "line 11: has 3 columns, the first line has 7", "line 12: name is not valid UTF-8",
		"line 13: extraneous", "line 14: price.amount: is too large", "millrace: 12 lines could not be imported; mend what is wrong in its place and run it again"} {
		if !strings.Contains(r.Err, want) {
			t.Errorf("%q is not told:\n%s", want, r.Err)
		}
	}
	rejects := filepath.Join(t.TempDir(), "bad.txt")
	r = invocation{deps: api.deps()}.run(t, "import", "products", name, "--rejects", rejects)
	text, err := os.ReadFile(rejects)
	if err != nil || strings.Count(string(text), "\n") != 12 || strings.Contains(r.Err, "line 3") || !strings.Contains(r.Err, rejects) {
		t.Errorf("%v\n%s\n%+v", err, text, r)
	}
}

func TestNDJSONIsImportedLineByLine(t *testing.T) {
	api := &fakeImports{}
	content := `{"sku":"a","names":{"en":"A"},"price":{"amount":1,"currency":"EUR"}}` + "\n\n" + `[1]` + "\n" + `null` + "\n" + `{"line":7}` + "\n" +
		`{"sku":"` + strings.Repeat("x", 2<<20) + `"}` + "\n" + `{"sku":"` + strings.Repeat("y", 300<<10) + `"}` + "\n{\"sku\":\"\xff\"}\n" + `{"sku":"z"}` + "\n" +
		"{}\n" + `{"sku":"t","sku":"t"}`
	r := invocation{deps: api.deps()}.run(t, "import", "products", write(t, "p.ndjson", content))
	if r.Code != ExitFailure || r.Out != "10 lines: 4 applied, 0 unchanged, 6 refused.\n" {
		t.Errorf("%.2000v", r)
	}
	for _, want := range []string{"line 3: is not a JSON object", "line 4: is not a JSON object", `line 5: has a member "line"`, "line 6: is longer than 1048576 bytes",
		"line 7: has 307", "line 8: is not valid UTF-8"} {
		if !strings.Contains(r.Err, want) {
			t.Errorf("%q is not told:\n%.2000s", want, r.Err)
		}
	}
	want := []string{`{"line":1,"sku":"a","names":{"en":"A"},"price":{"amount":1,"currency":"EUR"}}`, `{"line":9,"sku":"z"}`,
		`{"line":10}`, `{"line":11,"sku":"t","sku":"t"}`} // the server says what is wrong with the last two
	if diff := cmp.Diff(want, api.lines); diff != "" {
		t.Error(diff)
	}
}

func TestPlacesAreImportedFromCSV(t *testing.T) {
	const content = "id;kind;country;admin;population;lat;lon;name;name.de;deleted\n" +
		"276;country;DE;;;;;Germany;Deutschland;\n" +
		"2867714;city;DE;02;1260391;48.13743;11.57549;Munich;München;false\n" +
		"17;;;;;;;;;TRUE\n" +
		"18;city;DE;;many;;;A;;\n" + // 5
		"19;city;DE;;;north;;A;;\n" + // 6
		"20;city;DE;;;;NaN;A;;\n" + // 7
		"21;city;DE;;;;;A;;gone\n" + // 8
		"one;city;DE;;;;;A;;\n" // 9
	api := &fakeImports{}
	r := invocation{deps: api.deps()}.run(t, "import", "places", write(t, "p.csv", content))
	if r.Code != ExitFailure || r.Out != "8 lines: 3 applied, 0 unchanged, 5 refused.\n" {
		t.Errorf("%+v", r)
	}
	for _, want := range []string{`line 5: population is "many"; write a whole number`, `line 6: lat is "north"; write degrees`, `line 7: lon is "NaN"`,
		`line 8: deleted is "gone"; write true or false`, `line 9: id is "one"`} {
		if !strings.Contains(r.Err, want) {
			t.Errorf("%q is not told:\n%s", want, r.Err)
		}
	}
	if diff := cmp.Diff([]string{
		`{"code":"DE","id":276,"kind":"country","line":2,"names":{"de":"Deutschland","en":"Germany"}}`,
		`{"admin":"02","country":"DE","deleted":false,"id":2867714,"kind":"city","lat":48.13743,"line":3,"lon":11.57549,"names":{"de":"München","en":"Munich"},"population":1260391}`,
		`{"deleted":true,"id":17,"line":4}`,
	}, api.lines); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"/control/import/places"}, api.requests); diff != "" || !api.tenants["demo"] {
		t.Errorf("for %v: %s", api.tenants, diff)
	}
}

func TestPlacesAreImportedAsTheyStand(t *testing.T) {
	const lines = `{"id":276,"kind":"country","code":"DE","names":{"en":"Germany"}}` + "\n" +
		`{"id":2867714,"kind":"city","country":"DE","admin":"02","population":1260391,"lat":48.13743,"lon":11.57549,"names":{"en":"Munich"}}` + "\n" +
		`{"id":17,"deleted":true}` + "\n"
	api := &fakeImports{}
	r := invocation{deps: api.deps()}.run(t, "import", "places", write(t, "p.ndjson.gz", zipped(t, lines)), "--tenant", "acme")
	if diff := cmp.Diff(result{Out: "3 lines: 3 applied, 0 unchanged, 0 refused.\n"}, r); diff != "" || !api.tenants["acme"] {
		t.Errorf("for %v: %s", api.tenants, diff)
	}
	var want []string
	for i, line := range strings.Split(strings.TrimSpace(lines), "\n") {
		want = append(want, fmt.Sprintf(`{"line":%d,%s`, i+1, line[1:]))
	}
	if diff := cmp.Diff(want, api.lines); diff != "" {
		t.Error(diff)
	}
}

func TestStockIsImportedOnceForTheFilesContent(t *testing.T) {
	const content = "sku,onHand,delta\ntee,100,\nmug,,-2\n"
	sum := sha256.Sum256([]byte(content))
	id := hex.EncodeToString(sum[:])
	t.Setenv("TMPDIR", t.TempDir())
	api := &fakeImports{}
	deps := api.deps()
	first := invocation{deps: deps}.run(t, "import", "stock", write(t, "s.csv", content))
	again := invocation{deps: deps}.run(t, "import", "stock", write(t, "s.csv.gz", zipped(t, content)))
	stdin := invocation{deps: deps, stdin: content}.run(t, "import", "stock", "-", "--format", "csv")
	named := invocation{deps: deps}.run(t, "import", "stock", write(t, "s.csv", content), "--import-id", "mine", "--tenant", "acme")
	once := result{Out: "2 lines: 0 applied, 2 applied before, 0 refused.\n",
		Err: "every line was applied before under the import id " + id + ", so nothing has changed; to apply the file once more, name the import otherwise with --import-id\n"}
	if diff := cmp.Diff([]result{
		{Out: "2 lines: 2 applied, 0 applied before, 0 refused.\n"}, once, once, {Out: "2 lines: 2 applied, 0 applied before, 0 refused.\n"},
	}, []result{first, again, stdin, named}); diff != "" {
		t.Error(diff)
	}
	at := "/control/import/stock?importId="
	if diff := cmp.Diff([]string{at + id, at + id, at + id, at + "mine"}, api.requests); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{`{"line":2,"onHand":100,"sku":"tee"}`, `{"delta":-2,"line":3,"sku":"mug"}`}, api.lines[:2]); diff != "" {
		t.Error(diff)
	}
	if !api.tenants["acme"] {
		t.Errorf("tenants %v", api.tenants)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "millrace-import-*")); len(left) > 0 {
		t.Errorf("copies of the input are left: %v", left)
	}
}

func TestALargeFileIsSentInBoundedBatches(t *testing.T) {
	var content strings.Builder
	content.WriteString("sku,onHand\n")
	for i := range 2345 {
		fmt.Fprintf(&content, "sku-%d,%d\n", i, i)
	}
	api := &fakeImports{}
	r := invocation{deps: api.deps()}.run(t, "import", "stock", write(t, "s.csv", content.String()))
	if r.Code != 0 || len(api.lines) != 2345 || len(api.requests) != 10 {
		t.Errorf("%+v, %d lines in %d requests", r, len(api.lines), len(api.requests))
	}
	api = &fakeImports{}
	long := "sku,amount,currency,description\n" + strings.Repeat("a,1,EUR,"+strings.Repeat("x", 1000)+"\n", 2*maxImportRow/1000)
	r = invocation{deps: api.deps()}.run(t, "import", "products", write(t, "p.csv", long))
	if r.Code != 0 || len(api.lines) != 2*maxImportRow/1000 {
		t.Errorf("a file that is longer than a row may be: %+v", r)
	}
	api = &fakeImports{}
	var wide strings.Builder
	for range 50 {
		fmt.Fprintf(&wide, `{"sku":"a","category":"%s"}`+"\n", strings.Repeat("x", 20<<10))
	}
	r = invocation{deps: api.deps()}.run(t, "import", "products", write(t, "p.ndjson", wide.String()))
	if r.Code != 0 || len(api.lines) != 50 || api.largest > importBatchBytes {
		t.Errorf("%+v, %d lines, the largest request has %d bytes", r, len(api.lines), api.largest)
	}
}

func TestAnImportThatStopsSaysHowToGoOn(t *testing.T) {
	api := &fakeImports{fail: 2}
	r := invocation{deps: api.deps()}.run(t, "import", "stock", write(t, "s.csv", "sku,onHand\n"+strings.Repeat("a,1\n", 700)), "--import-id", "mine")
	if r.Code != ExitFailure || r.Out != "250 lines: 250 applied, 0 applied before, 0 refused.\n" ||
		!strings.Contains(r.Err, "does not take writes now; try again in 2 s; run it again with --import-id mine, which applies nothing twice") {
		t.Errorf("%+v", r)
	}
}

func TestAnImportThatCannotBeginSaysWhy(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		says string
	}{
		{"no file", []string{"import", "products"}, "the file is missing"},
		{"a file that is not there", []string{"import", "products", "/nowhere/p.csv"}, "no such file"},
		{"a directory", []string{"import", "products", t.TempDir(), "--format", "csv"}, "not a file"},
		{"a name without a format", []string{"import", "products", write(t, "p.txt", "x")}, "--format"},
		{"standard input without a format", []string{"import", "products", "-"}, "--format"},
		{"an unknown format", []string{"import", "products", write(t, "p.csv", "x"), "--format", "xml"}, "csv or ndjson"},
		{"an empty file", []string{"import", "products", write(t, "p.csv", "")}, "empty"},
		{"an unknown column", []string{"import", "products", write(t, "p.csv", "sku,colour\n")}, `"colour" is not known; the columns are sku`},
		{"a column twice", []string{"import", "stock", write(t, "s.csv", "sku,sku\n")}, "twice"},
		{"no id", []string{"import", "places", write(t, "p.csv", "kind,country,name.de\n")}, "no column id"},
		{"places have no descriptions", []string{"import", "places", write(t, "p.csv", "id,description\n")}, `"description" is not known; the columns are id, kind`},
		{"no SKU", []string{"import", "stock", write(t, "s.csv", "onHand,delta\n")}, "no column sku"},
		{"rejects that cannot be written", []string{"import", "stock", write(t, "s.csv", "sku,onHand\n"), "--rejects", "/nowhere/x"}, "--rejects"},
		{"a word too many", []string{"import", "orders"}, "no command"},
	} {
		t.Run(c.name, func(t *testing.T) {
			api := &fakeImports{}
			r := invocation{deps: api.deps()}.run(t, c.args...)
			if r.Code != ExitUsage || !strings.Contains(r.Err, c.says) || len(api.lines) > 0 {
				t.Errorf("%+v does not say %q", r, c.says)
			}
		})
	}
	api := &fakeImports{}
	for name, content := range map[string]string{"cut.csv.gz": zipped(t, someProducts)[:60], "quote.csv": "sku,name\na,\"" + strings.Repeat("x\n", 1<<20)} {
		r := invocation{deps: api.deps()}.run(t, "import", "products", write(t, name, content))
		if r.Code != ExitFailure || !strings.Contains(r.Err, "the import stopped") && !strings.Contains(r.Err, "reading") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestAnInterruptedImportStops(t *testing.T) {
	api := &fakeImports{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := invocation{deps: api.deps()}.runContext(ctx, "import", "stock", write(t, "s.csv", "sku,onHand\na,1\n"))
	if r.Code != ExitFailure || len(api.lines) > 0 {
		t.Errorf("%+v, lines %v", r, api.lines)
	}
}

func TestPricesBecomeMinorUnitsExactly(t *testing.T) {
	for _, c := range []struct {
		price, currency string
		want            int64
		ok              bool
	}{
		{"19.99", "EUR", 1999, true}, {"0.1", "EUR", 10, true}, {"7", "EUR", 700, true}, {"1000", "JPY", 1000, true}, {"1.5", "KWD", 1500, true},
		{"90071992547409.93", "EUR", 9007199254740993, true}, // more than a float64 can tell
		{"1.5", "JPY", 0, false}, {"1.", "EUR", 0, false}, {".5", "EUR", 0, false}, {"-1", "EUR", 0, false}, {"1e3", "EUR", 0, false}, {"1,000.00", "EUR", 0, false},
		{"99999999999999999999", "EUR", 0, false}, {"1.2.3", "EUR", 0, false}, {"", "EUR", 0, false},
	} {
		got, err := minorUnits(c.price, c.currency)
		if (err == nil) != c.ok || got != c.want {
			t.Errorf("%s %s: %d, %v; want %d", c.price, c.currency, got, err, c.want)
		}
	}
}

func TestProgressIsABarOnATerminalAndLinesElsewhere(t *testing.T) {
	now := time.Date(2026, 11, 22, 8, 30, 0, 0, time.UTC)
	source := &importSource{size: 1000}
	var out bytes.Buffer
	p := newImportProgress(&out, source, func() time.Time { return now })
	p.show(10, 0) // too soon
	source.read.Store(500)
	now = now.Add(5 * time.Second)
	p.show(100, 2)
	p.show(101, 2)
	if out.String() != "100 lines, 20/s, 2 refused, 50 % of the file\n" {
		t.Errorf("lines: %q", &out)
	}
	out.Reset()
	p.terminal = true
	now = now.Add(barEvery)
	p.show(104, 0)
	p.clear()
	p.clear()
	if want := "\r\x1b[K[" + strings.Repeat("#", 15) + strings.Repeat(".", 15) + "] 104 lines, 20/s, 50 % of the file\r\x1b[K"; out.String() != want {
		t.Errorf("a bar: %q, want %q", &out, want)
	}
}
