package event

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/event/scan"
)

// recordsOf are what an ingester writes for each of these bodies.
func recordsOf(t *testing.T, bodies ...string) [][]byte {
	t.Helper()
	log := newGateLog()
	in := newIngester(t, IngesterOptions{Log: log})
	var records [][]byte
	for _, body := range bodies {
		log.outcome <- nil
		if _, err := in.Ingest(t.Context(), Submission{TenantID: "demo", Body: []byte(body), Format: scan.JSON}); err != nil {
			t.Fatal(err)
		}
		records = append(records, <-log.entered)
	}
	return records
}

func TestAPackIsOneSequenceWithAllItsEventsAndLettersOfTheirOwn(t *testing.T) {
	pack := AppendPack(nil, recordsOf(t,
		`[{"id":"a","type":"t","payload":1},{"id":"bad1"},{"id":"bad2"}]`,
		`[{"id":"b","type":"t","payload":2},{"id":"bad3"}]`,
		`[{"id":"c","type":"t","payload":3}]`))
	var letters []string
	for range 2 { // read again, everything is the same
		var b batch
		b.begin(7)
		b.add(Frame{FirstSeq: 7, ReceivedAt: noon, Records: [][]byte{pack}})
		if b.err != nil || b.upTo != 8 {
			t.Fatalf("up to %d, error %v", b.upTo, b.err)
		}
		var ids []string
		for _, row := range b.items {
			ids = append(ids, row.ID)
		}
		if diff := cmp.Diff([]string{"a", "b", "c"}, ids); diff != "" {
			t.Error(diff)
		}
		var got []string
		for _, l := range b.letters {
			got = append(got, l.ID+" "+l.EventID)
		}
		if letters != nil {
			if diff := cmp.Diff(letters, got); diff != "" {
				t.Error(diff)
			}
		}
		letters = got
	}
	slices.Sort(letters)
	if len(slices.Compact(letters)) != 3 {
		t.Errorf("the letters are %v, want three with ids of their own", letters)
	}
}

func TestAPackThatDoesNotDecodeIsAnError(t *testing.T) {
	good := AppendPack(nil, recordsOf(t, `[{"id":"a","type":"t","payload":1}]`))
	for name, raw := range map[string][]byte{
		"cut off":            good[:len(good)-1],
		"something after it": append(slices.Clone(good), 0),
		"a pack in a pack":   AppendPack(nil, [][]byte{good}),
		"no count":           {recordVersionPack},
	} {
		var b batch
		b.begin(1)
		b.add(Frame{FirstSeq: 1, ReceivedAt: noon, Records: [][]byte{raw}})
		if !errors.Is(b.err, errRecord) {
			t.Errorf("%s: error %v", name, b.err)
		}
	}
}

func TestAckStreamNeedsALogThatIsAStream(t *testing.T) {
	if _, err := NewIngester(IngesterOptions{Log: nullLog{}, Ack: AckStream}); err == nil {
		t.Error("a log that knows at once was taken")
	}
}
