package cache

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAMessageIsReadAsItWasWritten(t *testing.T) {
	for _, m := range []message{
		{cache: "orders", instance: "a"},
		{cache: "orders", instance: "a", all: true},
		{cache: "orders", instance: "a", changes: []announced{
			{subject{false, "tenant/one"}, announcement{7, true}},
			{subject{true, "\xff not UTF-8"}, announcement{0, false}},
			{subject{false, ""}, announcement{1<<63 - 1, false}},
		}},
	} {
		got, err := decodeMessage(m.cache, m.encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got, cmp.AllowUnexported(message{}, announced{}, subject{}, announcement{})); diff != "" {
			t.Error(diff)
		}
	}
}

func TestOfAnotherCachesMessageOnlyTheNameIsRead(t *testing.T) {
	m := message{cache: "orders", instance: "a", all: true, changes: []announced{{subject{true, "t"}, announcement{1, true}}}}
	got, err := decodeMessage("keys", m.encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(message{cache: "orders"}, got, cmp.AllowUnexported(message{}, announced{}, subject{}, announcement{})); diff != "" {
		t.Error(diff)
	}
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add([]byte{})
	f.Add(message{cache: "c", instance: "i", all: true, changes: []announced{{subject{true, "t"}, announcement{9, true}}}}.encode())
	f.Add([]byte{messageFormat, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMessage("c", b)
		if err != nil {
			return
		}
		again, err := decodeMessage(m.cache, m.encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, again, cmp.AllowUnexported(message{}, announced{}, subject{}, announcement{})); diff != "" {
			t.Error(diff)
		}
	})
}
