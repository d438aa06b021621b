package stream

import (
	"maps"
	"slices"
	"testing"
	"time"
)

func TestWhatWasReleasedStaysForTheTimeGivenAndAPartMore(t *testing.T) {
	const keep = 64 * time.Second // releases within a second are one
	for name, c := range map[string]struct {
		releases map[time.Duration]uint64 // by when
		want     map[time.Duration]uint64 // below what may be trimmed, by when
	}{
		"nothing released": {nil, map[time.Duration]uint64{0: 0, time.Hour: 0}},
		"one release": {map[time.Duration]uint64{0: 5},
			map[time.Duration]uint64{0: 0, keep - 1: 0, keep: 5, time.Hour: 5}},
		"releases far apart": {map[time.Duration]uint64{0: 5, 10 * time.Second: 8},
			map[time.Duration]uint64{keep - 1: 0, keep: 5, keep + 10*time.Second - 1: 5, keep + 10*time.Second: 8}},
		"releases that are one wait for the last": {map[time.Duration]uint64{0: 5, time.Second - 1: 8},
			map[time.Duration]uint64{keep: 0, keep + time.Second - 2: 0, keep + time.Second - 1: 8}},
		"the same again": {map[time.Duration]uint64{0: 5, 10 * time.Second: 5},
			map[time.Duration]uint64{keep - 1: 0, keep: 5, time.Hour: 5}},
		"a store that lost its last commits": {map[time.Duration]uint64{0: 5, 10 * time.Second: 9, 20 * time.Second: 7},
			map[time.Duration]uint64{keep: 5, keep + 19*time.Second: 5, keep + 20*time.Second: 7, time.Hour: 7}},
	} {
		t.Run(name, func(t *testing.T) {
			for at, want := range c.want {
				r := retention{keep: keep}
				for _, when := range slices.Sorted(maps.Keys(c.releases)) {
					r.note(c.releases[when], noon.Add(when))
				}
				if got := r.settle(noon.Add(at)); got != want {
					t.Errorf("after %v: trimmed below %d, want %d", at, got, want)
				}
			}
		})
	}
}

func TestReleasesTakeBoundedMemory(t *testing.T) {
	r := retention{keep: time.Minute}
	now := noon
	for i := range uint64(100_000) {
		r.note(i, now)
		if n := len(r.pending); n > maxReleases+2 {
			t.Fatalf("%d releases are kept after %v", n, now.Sub(noon))
		}
		now = now.Add(7 * time.Millisecond)
	}
	if behind := 99_999 - r.settle(now); time.Duration(behind)*7*time.Millisecond > 62*time.Second {
		t.Errorf("%d messages are not trimmed", behind)
	}
}
