package app

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func TestAClockThatJumpsAheadIsBelievedAfterADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := time.Duration(0) // how far the clock was set
		c := newCautiousClock(func() time.Time { return time.Now().Add(set) }, slog.New(slog.DiscardHandler))
		start := time.Now().Round(0)
		at := func(what string, want time.Duration) {
			t.Helper()
			if got := c.Now().Sub(start); got != want {
				t.Errorf("%s: the time is %v after the start, want %v", what, got, want)
			}
		}
		at("at first", 0)
		time.Sleep(time.Minute)
		at("a minute later", time.Minute)
		set = 30 * time.Minute
		at("set by half an hour", 31*time.Minute)
		set = 400 * 24 * time.Hour
		at("set by a year", 31*time.Minute)
		time.Sleep(time.Hour)
		at("an hour later", 91*time.Minute)
		set = 0
		at("set right", 61*time.Minute)
		set = 400 * 24 * time.Hour
		at("wrong again", 61*time.Minute)
		time.Sleep(24 * time.Hour)
		at("a day later", 400*24*time.Hour+25*time.Hour+time.Minute)
	})
}
