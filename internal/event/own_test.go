package event

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/deadletter"
	"millrace/internal/event/scan"
	"millrace/internal/wal"
)

// placed is an event of an order.
func placed(tenant, id string) Own {
	return Own{TenantID: tenant, ID: id, Type: "order.placed", Source: SourceOrders, Timestamp: noon.Add(-time.Second),
		Payload: []byte(`{"orderId":"` + id + `"}`), Amount: 1999, Currency: "EUR"}
}

// rowOf is what must become of it.
func rowOf(e Own) Row {
	return Row{Hash: HashOf(e.TenantID, e.Source, e.ID), TenantID: e.TenantID, ID: e.ID, Type: e.Type, Source: e.Source,
		Timestamp: e.Timestamp.UnixNano(), ReceivedAt: noon.UnixNano(), Payload: string(e.Payload),
		Exact: true, Amount: e.Amount, Currency: e.Currency}
}

// keptLog keeps every record, or fails if it is told to.
type keptLog struct {
	nullLog
	records chan []byte
	fail    error
}

func (l *keptLog) Append(record []byte) (wal.Position, error) {
	if l.fail != nil {
		return wal.Position{}, l.fail
	}
	l.records <- slices.Clone(record)
	return wal.Position{}, nil
}

func (l *keptLog) AppendAsync([]byte, func(error)) error { return errors.New("not durable") }

func newKeptLog() *keptLog { return &keptLog{records: make(chan []byte, 100)} }

func TestOwnEventsStandInTheLogByTenantWithTheirMoney(t *testing.T) {
	for _, ack := range []AckMode{AckWAL, AckMemory} { // durable in both: the record never takes the way that is not
		log := newKeptLog()
		in := newIngester(t, IngesterOptions{Log: log, Ack: ack})
		refund := placed("demo", "c")
		refund.Type, refund.Amount = "order.refunded", -5
		noted := placed("demo", "d")
		noted.Amount, noted.Currency = 0, ""
		all := []Own{placed("demo", "a"), placed("rival", "b"), refund, noted}
		for range 2 { // a repeat is written again: to drop it is the store's
			if err := in.IngestOwn(t.Context(), all); err != nil {
				t.Fatal(err)
			}
			got := map[string][]Row{}
			for range 2 {
				rows, dead := rowsOf(t, <-log.records)
				if len(dead) != 0 {
					t.Errorf("%d dead entries", len(dead))
				}
				got[rows[0].TenantID] = rows
			}
			want := map[string][]Row{"demo": {rowOf(all[0]), rowOf(all[2]), rowOf(all[3])}, "rival": {rowOf(all[1])}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("ack %s: rows differ (-want +got):\n%s", ack, diff)
			}
		}
		if len(log.records) != 0 || in.Pending() != 0 {
			t.Errorf("ack %s: %d more records, %d pending", ack, len(log.records), in.Pending())
		}
		if stats := in.o.Window.Stats(); stats.Hashes != 0 {
			t.Errorf("%d hashes in the window, which has no part in this", stats.Hashes)
		}
	}
}

func TestManyOwnEventsTakeRecordsOfBoundedSize(t *testing.T) {
	log := newKeptLog()
	in := newIngester(t, IngesterOptions{Log: log})
	var all []Own
	for i := range 2500 {
		all = append(all, placed("demo", fmt.Sprint("small", i)))
	}
	for i := range 5 {
		e := placed("demo", fmt.Sprint("large", i))
		e.Payload = []byte(`"` + strings.Repeat("x", 600<<10) + `"`)
		all = append(all, e)
	}
	if err := in.IngestOwn(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for len(log.records) > 0 {
		raw := <-log.records
		rows, _ := rowsOf(t, raw)
		if len(raw) > ownRecordBytes+4096 || len(rows) > ownRecordEvents {
			t.Errorf("a record of %d bytes and %d events", len(raw), len(rows))
		}
		for _, r := range rows {
			ids = append(ids, r.ID)
		}
	}
	for i, e := range all {
		if i >= len(ids) || ids[i] != e.ID {
			t.Fatalf("%d events in the log, want the %d in order", len(ids), len(all))
		}
	}
}

func TestAnOwnEventThatCanNeverBeStoredKeepsTheWholeCallOut(t *testing.T) {
	for reason, spoil := range map[string]func(*Own){
		"its tenant is empty":     func(e *Own) { e.TenantID = "" },
		"its id is empty":         func(e *Own) { e.ID = "" },
		"its type is empty":       func(e *Own) { e.Type = "" },
		"its source is empty":     func(e *Own) { e.Source = "" },
		"its id has 257 bytes":    func(e *Own) { e.ID = strings.Repeat("i", 257) },
		"its type has a NUL":      func(e *Own) { e.Type = "a\x00" },
		"its id has a NUL or is":  func(e *Own) { e.ID = "\xff" },
		"must begin with":         func(e *Own) { e.Source = "shop" },
		"its time is 0001-01-01":  func(e *Own) { e.Timestamp = time.Time{} },
		"its time is 2999":        func(e *Own) { e.Timestamp = e.Timestamp.AddDate(973, 0, 0) },
		"not valid JSON":          func(e *Own) { e.Payload = []byte(`{"a":1`) },
		"its payload has 1048577": func(e *Own) { e.Payload = []byte(`"` + strings.Repeat("x", 1<<20-1) + `"`) },
		"no currency":             func(e *Own) { e.Currency = "" },
		`currency is "eur"`:       func(e *Own) { e.Currency = "eur" },
		`currency is "EURO"`:      func(e *Own) { e.Currency = "EURO" },
	} {
		log := newKeptLog()
		in := newIngester(t, IngesterOptions{Log: log})
		all := []Own{placed("demo", "a"), placed("demo", "b")}
		spoil(&all[1])
		err := in.IngestOwn(t.Context(), all)
		var invalid *InvalidOwnError
		if !errors.As(err, &invalid) || invalid.Index != 1 || invalid.ID != all[1].ID || !strings.Contains(invalid.Reason, reason) {
			t.Errorf("%s: error %v", reason, err)
		}
		if len(log.records) != 0 {
			t.Errorf("%s: %d records were written", reason, len(log.records))
		}
	}
}

func TestOwnEventsAreRefusedLikeOthersWhenTheLogCannotTakeThem(t *testing.T) {
	for cause, want := range map[error]string{wal.ErrBacklogFull: "backlog-full", wal.ErrUnknown: "outcome-unknown", wal.ErrClosed: "shutting-down"} {
		log := newKeptLog()
		log.fail = cause
		in := newIngester(t, IngesterOptions{Log: log})
		err := in.IngestOwn(t.Context(), []Own{placed("demo", "a"), placed("rival", "b")})
		var refusal *Unavailable
		if !errors.As(err, &refusal) || refusal.Reason != want || refusal.RetryAfter <= 0 {
			t.Errorf("%v: error %v, want %s", cause, err, want)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	log := newKeptLog()
	in := newIngester(t, IngesterOptions{Log: log})
	if err := in.IngestOwn(gone, []Own{placed("demo", "a")}); !errors.Is(err, context.Canceled) || len(log.records) != 0 {
		t.Errorf("a caller who left: error %v, %d records", err, len(log.records))
	}
	if err := in.IngestOwn(t.Context(), nil); err != nil || len(log.records) != 0 {
		t.Errorf("no events: error %v, %d records", err, len(log.records))
	}
}

func TestNobodyElseNamesTheSourcesOfOwnEvents(t *testing.T) {
	log := newKeptLog()
	in := newIngester(t, IngesterOptions{Log: log})
	got := <-submit(in, `[{"id":"a","type":"order.paid","source":"millrace/orders"},{"id":"b","type":"order.paid","source":"millrace/"},
		{"id":"c","type":"order.paid","source":"millrac\u0065/orders"},
		{"id":"d","type":"order.paid","source":"millrace"},{"id":"e","type":"order.paid","source":"shop/millrace/orders"},{"id":"f","type":"order.paid"}]`)
	if got.err != nil {
		t.Fatal(got.err)
	}
	rows, dead := rowsOf(t, <-log.records)
	var ids []string
	for _, r := range rows {
		ids = append(ids, r.ID)
		if r.Exact || r.Amount != 0 || r.Currency != "" {
			t.Errorf("an event from outside became %+v", r)
		}
	}
	if diff := cmp.Diff([]string{"d", "e", "f"}, ids); diff != "" || len(dead) != 3 {
		t.Errorf("%d dead entries, accepted ids differ (-want +got):\n%s", len(dead), diff)
	}
	for _, r := range got.receipt.Rejected {
		if !strings.Contains(r.Reason, `"millrace/", which is reserved`) {
			t.Errorf("%s is rejected for %q", r.ID, r.Reason)
		}
	}
}

func TestARedriveCannotNameTheSourcesOfOwnEvents(t *testing.T) {
	b := newBench(t)
	b.run()
	r := Redriver{Ingester: b.in, Store: b.store, Commits: b.sink}
	for _, l := range []deadletter.Letter{
		{ID: "l", TenantID: "demo", Kind: deadletter.KindEvent},
		{ID: "l", TenantID: "demo", Kind: deadletter.KindWebhook, EventID: "e", Type: "t", Source: "millrace/orders"},
	} {
		var rejected *deadletter.RejectedError
		err := r.Redrive(t.Context(), l, []byte(`{"type":"order.paid","source":"millrace/orders"}`))
		if !errors.As(err, &rejected) || !strings.Contains(rejected.Reason, "reserved") {
			t.Errorf("%s: error %v, want a rejection", l.Kind, err)
		}
	}
	b.settle()
	if len(b.store.ids()) != 0 || len(b.letters.all()) != 0 {
		t.Errorf("stored %v, and %d more letters", b.store.ids(), len(b.letters.all()))
	}
}

func TestTheSinkMarksOwnEventsExactInEveryMode(t *testing.T) {
	b := newBench(t)
	b.ingest("x")
	if err := b.in.IngestOwn(t.Context(), []Own{placed("demo", "a")}); err != nil {
		t.Fatal(err)
	}
	b.ingest("y")
	b.run()
	b.settle()
	if b.store.batches[0].Exact {
		t.Error("the batch is exact as a whole")
	}
	want := []Row{b.store.rows[0], rowOf(placed("demo", "a")), b.store.rows[2]}
	if diff := cmp.Diff(want, b.store.rows); diff != "" || b.store.rows[0].Exact || b.store.rows[2].Exact {
		t.Errorf("rows differ (-want +got):\n%s", diff)
	}
}

// The records as releases wrote them: what is in a log must be read by all later ones.
const (
	recordV1 = "01" + "000102030405060708090a0b0c0d0e0f" + "0464656d6f" + "0100" +
		"101112131415161718191a1b1c1d1e1f" + "0700000000000000" + "0101010007" + "61" + "74" + "73" + "7b2261223a317d"
	recordV2 = "02" + "000102030405060708090a0b0c0d0e0f" + "0464656d6f" + "0100" +
		"101112131415161718191a1b1c1d1e1f" + "0700000000000000" + "01" + "9e1f" + "010101000203" + "61" + "74" + "73" + "7b7d" + "455552"
)

func fromHex(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestRecordsOfEveryReleaseAreRead(t *testing.T) {
	h := Hash(fromHex(t, "101112131415161718191a1b1c1d1e1f"))
	want := Row{Hash: h, TenantID: "demo", ID: "a", Type: "t", Source: "s", Timestamp: 7, ReceivedAt: noon.UnixNano(), Payload: `{"a":1}`}
	rows, _ := rowsOf(t, fromHex(t, recordV1))
	if diff := cmp.Diff([]Row{want}, rows); diff != "" {
		t.Errorf("version 1 differs (-want +got):\n%s", diff)
	}
	want.Payload, want.Exact, want.Amount, want.Currency = `{}`, true, 1999, "EUR"
	rows, _ = rowsOf(t, fromHex(t, recordV2))
	if diff := cmp.Diff([]Row{want}, rows); diff != "" {
		t.Errorf("version 2 differs (-want +got):\n%s", diff)
	}
	for _, text := range []string{recordV1, recordV2} {
		r, err := decodeRecord(fromHex(t, text))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.skipEvent(); got != h || err != nil || len(r.rest) != 0 {
			t.Errorf("skipped to hash %x with %d bytes left, error %v", got, len(r.rest), err)
		}
	}
}

func TestWhatComesFromOutsideIsStillWrittenAsVersion1(t *testing.T) {
	raw := appendRecordHeader(nil, batchID(fromHex(t, "000102030405060708090a0b0c0d0e0f")), "demo", 1, 0)
	raw = appendRecordEvent(raw, Hash(fromHex(t, "101112131415161718191a1b1c1d1e1f")), &scan.Event{ID: []byte("a"), Type: []byte("t"), Source: []byte("s"),
		HasTimestamp: true, Timestamp: 7, Payload: []byte(`{"a":1}`)})
	if got := hex.EncodeToString(raw); got != recordV1 {
		t.Errorf("record %s, want %s", got, recordV1)
	}
}

// decodeAll reads a record in both ways and returns the rows.
func decodeAll(raw []byte) (rows []Row, err error) {
	r, err := decodeRecord(raw)
	if err != nil {
		return nil, err
	}
	skipping := r
	for range r.events {
		row, err := r.nextEvent(1)
		h, skipErr := skipping.skipEvent()
		if (err == nil) != (skipErr == nil) || err == nil && (h != row.Hash || len(r.rest) != len(skipping.rest)) {
			return nil, fmt.Errorf("read %+v, %v, but skipped %x, %v", row, err, h, skipErr)
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	for range r.dead {
		if _, err := r.nextDead(); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

func TestARecordThatIsCutOrUnknownIsRefused(t *testing.T) {
	for _, text := range []string{recordV1, recordV2} {
		raw := fromHex(t, text)
		for n := range raw {
			if rows, err := decodeAll(raw[:n:n]); !errors.Is(err, errRecord) {
				t.Errorf("version %d cut to %d bytes: %d rows, error %v", raw[0], n, len(rows), err)
			}
		}
		for _, version := range []byte{0, 3, 255} {
			raw[0] = version
			if _, err := decodeAll(raw); !errors.Is(err, errRecord) {
				t.Errorf("version %d: error %v", version, err)
			}
		}
	}
	flagged := fromHex(t, strings.Replace(recordV2, "0700000000000000"+"01", "0700000000000000"+"03", 1))
	if _, err := decodeAll(flagged); !errors.Is(err, errRecord) {
		t.Errorf("a flag of a later release: error %v", err)
	}
	long := fromHex(t, strings.Replace(recordV2, "9e1f", "ffffffffffffffffffff7f", 1))
	if _, err := decodeAll(long); !errors.Is(err, errRecord) {
		t.Errorf("an amount of more than 64 bits: error %v", err)
	}
}

func TestOwnRecordsComeBackAsTheyWentIn(t *testing.T) {
	for _, amount := range []int64{0, 1, -1, 1e12, math.MaxInt64, math.MinInt64} {
		e := placed("demo", "a")
		e.Amount = amount
		rows, _ := rowsOf(t, appendRecordOwn(appendOwnHeader(nil, batchID{}, "demo", 1), &e))
		if diff := cmp.Diff([]Row{rowOf(e)}, rows); diff != "" {
			t.Errorf("amount %d: row differs (-want +got):\n%s", amount, diff)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(fromHex(f, recordV1))
	f.Add(fromHex(f, recordV2))
	f.Fuzz(func(t *testing.T, raw []byte) {
		rows, err := decodeAll(raw)
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Fatal(err)
			}
			return
		}
		for _, r := range rows {
			if raw[0] == recordVersion && (r.Exact || r.Amount != 0 || r.Currency != "") {
				t.Errorf("a record of version 1 has an event of our own: %+v", r)
			}
		}
	})
}

func TestALogThatTwoReleasesWroteIsSunkAndRemembered(t *testing.T) {
	b := newBench(t)
	for _, text := range []string{recordV1, recordV2} {
		if _, err := b.log.Append(fromHex(t, text)); err != nil {
			t.Fatal(err)
		}
	}
	w := newTestWindow(t)
	if err := RebuildWindow(t.Context(), w, quietStore{}, b.log, b.log.First(), noon.Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	if stats := w.Stats(); stats.Hashes != 1 { // both have the same hash
		t.Errorf("%d hashes in the window, want 1", stats.Hashes)
	}
	b.run()
	b.settle()
	if rows := b.store.rows; len(rows) != 2 || rows[0].Exact || !rows[1].Exact || rows[1].Amount != 1999 {
		t.Errorf("rows %+v", rows)
	}
}

// quietStore is a store without recent events.
type quietStore struct{ Store }

func (quietStore) RecentHashes(context.Context, time.Time, func(Hash, time.Time) bool) error {
	return nil
}
