package bus

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Bounds of what every driver takes.
const (
	maxSubjectBytes     = 200
	maxIDBytes          = 200
	maxHeaderBytes      = 4096
	maxGroupConcurrency = 4096
	minAckWait          = 10 * time.Millisecond
)

// InvalidError says that one message of a Publish can never be sent.
type InvalidError struct {
	// Index is its place in the call's messages.
	Index  int
	Reason string
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("message %d of the batch cannot be sent: %s", e.Index, e.Reason)
}

// CheckMessages returns an *InvalidError for the first message no driver takes:
// one with a bad subject, id or header, or with more than maxData bytes of data.
func CheckMessages(messages []Message, maxData int64) error {
	for i := range messages {
		if reason := messages[i].fault(maxData); reason != "" {
			return &InvalidError{Index: i, Reason: reason}
		}
	}
	return nil
}

func (m *Message) fault(maxData int64) string {
	if err := CheckSubject(m.Subject); err != nil {
		return err.Error()
	}
	if len(m.ID) > maxIDBytes || !plainText(m.ID) {
		return fmt.Sprintf("its id %.80q is longer than %d bytes or has control characters or surrounding spaces", m.ID, maxIDBytes)
	}
	size := 0
	for name, value := range m.Headers {
		if !headerName(name) {
			return fmt.Sprintf("the header name %.80q is not of A-Za-z0-9 and -, or begins with Nats-", name)
		}
		if !plainText(value) {
			return fmt.Sprintf("the value of header %s has control characters or surrounding spaces", name)
		}
		size += len(name) + len(value)
	}
	if size > maxHeaderBytes {
		return fmt.Sprintf("its headers have %d bytes, at most %d are taken", size, maxHeaderBytes)
	}
	if int64(len(m.Data)) > maxData {
		return fmt.Sprintf("its data have %d bytes, the broker takes at most %d: send a reference instead", len(m.Data), maxData)
	}
	return ""
}

// plainText says whether s survives as a header value.
func plainText(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return s == strings.Trim(s, " ")
}

func headerName(s string) bool {
	for i := range len(s) {
		if c := s[i] | 0x20; (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') && s[i] != '-' {
			return false
		}
	}
	return s != "" && (len(s) < 5 || !strings.EqualFold(s[:5], "nats-"))
}

// CheckSubject says what is wrong with the subject of a message: dotted words of
// A-Za-z0-9, "_" and "-".
func CheckSubject(subject string) error {
	if len(subject) > maxSubjectBytes {
		return fmt.Errorf("the subject %.80q… has %d bytes, at most %d are taken", subject, len(subject), maxSubjectBytes)
	}
	start := true // of a word
	for i := range len(subject) {
		c := subject[i]
		switch {
		case c == '.' && !start:
			start = true
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-':
			start = false
		default:
			return fmt.Errorf("the subject %.80q is not dotted words of A-Za-z0-9_-", subject)
		}
	}
	if start {
		return fmt.Errorf("the subject %.80q is not dotted words of A-Za-z0-9_-", subject)
	}
	return nil
}

// CheckPattern says what is wrong with a subject to take messages of: like that of
// a message, but its last word may be "*" (any one word) or ">" (one or more).
func CheckPattern(pattern string) error {
	plain := pattern
	if p, ok := strings.CutSuffix(pattern, ".*"); ok {
		plain = p
	} else if p, ok := strings.CutSuffix(pattern, ".>"); ok {
		plain = p
	}
	if err := CheckSubject(plain); err != nil {
		return fmt.Errorf("the subject %.80q is neither dotted words of A-Za-z0-9_- nor such with a last word * or >", pattern)
	}
	return nil
}

// Match says whether a valid pattern takes a valid subject. Given two patterns, it
// says whether the first takes everything the second does.
func Match(pattern, subject string) bool {
	if p, ok := strings.CutSuffix(pattern, ">"); ok {
		return len(subject) > len(p) && strings.HasPrefix(subject, p)
	}
	if p, ok := strings.CutSuffix(pattern, "*"); ok {
		rest, found := strings.CutPrefix(subject, p)
		return found && rest != "" && rest != ">" && !strings.Contains(rest, ".")
	}
	return pattern == subject
}

var groupName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// Check says what is wrong with a group; every driver's Subscribe begins with it.
func (g *Group) Check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !groupName.MatchString(g.Name) {
		fault("the name must be 1 to 64 of a-z0-9-, beginning with a letter or digit")
	}
	if len(g.Subjects) == 0 {
		fault("Subjects is empty: name at least one")
	}
	for i, s := range g.Subjects {
		if err := CheckPattern(s); err != nil {
			faults = append(faults, err)
			continue
		}
		for j, other := range g.Subjects {
			if i != j && Match(other, s) && (s != other || i < j) {
				fault("the subject %q is within %q: leave one out", s, other)
			}
		}
	}
	if g.Concurrency < 1 || g.Concurrency > maxGroupConcurrency {
		fault("Concurrency is %d, it must be 1 to %d", g.Concurrency, maxGroupConcurrency)
	}
	if g.AckWait < minAckWait {
		fault("AckWait is %v, it must be at least %v", g.AckWait, minAckWait)
	}
	if g.MaxAttempts < 1 {
		fault("MaxAttempts is %d, it must be at least 1", g.MaxAttempts)
	}
	if g.DeadLetter == nil {
		fault("DeadLetter is required")
	}
	if len(faults) > 0 {
		return fmt.Errorf("the group %.80q cannot be joined: %w", g.Name, errors.Join(faults...))
	}
	return nil
}
