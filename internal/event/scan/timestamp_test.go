package scan

import (
	"testing"
	"time"
)

func TestTimesAreReadAsPackageTimeReadsThem(t *testing.T) {
	for _, text := range []string{
		"2026-11-22T05:04:22Z", "2026-11-22t05:04:22z", "1970-01-01T00:00:00Z", "1969-12-31T23:59:59.999999999Z",
		"2026-11-22T05:04:22.1Z", "2026-11-22T05:04:22.123456789Z", "2026-11-22T05:04:22.1234567899999Z",
		"2026-11-22T00:00:00+00:30", "2026-11-22T23:59:59-23:59", "2026-11-22T05:04:22-00:00",
		"2000-02-29T12:00:00Z", "2024-02-29T12:00:00Z", "1900-03-01T00:00:00Z", "1678-01-01T00:00:00Z", "2262-01-01T00:00:00Z",
	} {
		checkTime(t, text)
	}
	for day := time.Date(1896, 1, 1, 13, 14, 15, 0, time.UTC); day.Year() < 2105; day = day.AddDate(0, 0, 1) {
		checkTime(t, day.Format(time.RFC3339))
	}
}

func checkTime(t *testing.T, text string) {
	t.Helper()
	want, ok := oracleTime(text)
	if !ok {
		t.Fatalf("the oracle refuses %s", text)
	}
	if got, reason := parseTime([]byte(text)); reason != "" || got != want {
		t.Fatalf("%s is %d (%s), want %d", text, got, reason, want)
	}
}

func TestTimesThatAreRefusedSayWhy(t *testing.T) {
	for text, want := range map[string]string{
		"":                          reasonTimeForm,
		"2026-11-22":                reasonTimeForm,
		"2026-11-22T05:04:22":       reasonTimeForm,
		"2026-11-22 05:04:22Z":      reasonTimeForm,
		"2026-11-22T05:04:22.Z":     reasonTimeForm,
		"2026-11-22T05:04:22,5Z":    reasonTimeForm,
		"2026-11-22T05:04:22+0100":  reasonTimeForm,
		"2026-11-22T05:04:22+24:00": reasonTimeForm,
		"2026-11-22T05:04:22+01:60": reasonTimeForm,
		"2026-11-22T05:04:22ZZ":     reasonTimeForm,
		"2026-11-22T5:04:22Z ":      reasonTimeForm,
		"+026-11-22T05:04:22Z":      reasonTimeForm,
		"2026-11-22T05:04:22.1x":    reasonTimeForm,
		"2026-13-22T05:04:22Z":      reasonTimeDay,
		"2026-00-22T05:04:22Z":      reasonTimeDay,
		"2026-11-31T05:04:22Z":      reasonTimeDay,
		"2026-11-00T05:04:22Z":      reasonTimeDay,
		"2026-02-29T05:04:22Z":      reasonTimeDay,
		"1900-02-29T05:04:22Z":      reasonTimeDay,
		"2026-11-22T24:00:00Z":      reasonTimeDay,
		"2026-11-22T05:60:22Z":      reasonTimeDay,
		"2026-11-22T05:04:61Z":      reasonTimeDay,
		"2016-12-31T23:59:60Z":      reasonTimeLeap,
		"0000-01-01T00:00:00Z":      reasonTimeRange,
		"1677-01-01T00:00:00Z":      reasonTimeRange,
		"2262-04-11T23:47:17Z":      reasonTimeRange,
		"2262-04-11T23:47:15-00:01": reasonTimeRange,
		"9999-12-31T23:59:59.999Z":  reasonTimeRange,
	} {
		if _, reason := parseTime([]byte(text)); reason != want {
			t.Errorf("%q: %q, want %q", text, reason, want)
		}
		if _, ok := oracleTime(text); ok {
			t.Errorf("%q: the oracle accepts it", text)
		}
	}
}
