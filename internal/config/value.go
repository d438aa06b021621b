package config

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written "64MiB" in files, variables and flags.
type Size int64

// Units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

// sizeUnits are tried in order, so a unit stands before those it ends with.
var sizeUnits = [...]struct {
	suffix string
	bytes  float64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
	{"b", 1}, {"", 1},
}

// ParseSize reads a size: a number with B, KiB, MiB, GiB or TiB (powers of 1024)
// or KB, MB, GB, TB (powers of 1000) behind it; without a unit it is bytes.
func ParseSize(s string) (Size, error) {
	text := strings.ToLower(strings.TrimSpace(s))
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, ok := plainNumber(strings.TrimSpace(digits))
		bytes := n * u.bytes
		if !ok || bytes != math.Trunc(bytes) || bytes >= 1<<63 {
			break
		}
		return Size(bytes), nil
	}
	return 0, fmt.Errorf("%q is not a size: write a number and a unit, such as 512KiB, 64MiB or 4GiB", s)
}

// plainNumber reads digits with at most one point; unlike strconv it takes
// neither signs nor exponents nor "inf".
func plainNumber(s string) (float64, bool) {
	if s == "" || strings.Trim(s, "0123456789.") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil
}

// String writes the size in the largest unit that divides it, such as "64MiB".
func (s Size) String() string {
	for _, u := range [...]struct {
		name  string
		bytes Size
	}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}} {
		if s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// Secret is a value that must not be seen: whatever prints, logs or marshals it
// writes a mask. Reveal gives the value to the code that needs it.
type Secret struct{ value string }

const mask = "********"

// NewSecret wraps a value.
func NewSecret(value string) Secret { return Secret{value: value} }

// Reveal returns the value itself.
func (s Secret) Reveal() string { return s.value }

// Equal reports whether two secrets hold the same value. It is for tests, not
// for checking what a client sent: it does not run in constant time.
func (s Secret) Equal(other Secret) bool { return s.value == other.value }

// String returns the mask, or nothing when there is no secret at all.
func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	return mask
}

// Format writes the mask whatever the verb, %#v and %x included.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue writes the mask to a log.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText writes the mask into JSON and other text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// formatDuration writes a duration as one would in a file: "2m", not "2m0s".
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
