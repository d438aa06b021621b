package order

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"
	"strings"
	"unicode/utf8"
)

// Request asks to place an order.
type Request struct {
	TenantID string
	// CustomerID is the authenticated subject.
	CustomerID string
	// Key is the Idempotency-Key.
	Key          string
	Items        []Item
	PaymentToken string
	Address      *Address
	Email, Phone string
	Note         string
	// Trace is the request's W3C traceparent.
	Trace string
}

// Item is a line of a request. Several may name one SKU: they are one demand.
type Item struct {
	SKU      string
	Quantity int64
}

// lines checks the items and returns them by SKU, each SKU once.
func (r *Request) lines() ([]Line, error) {
	if len(r.Items) == 0 {
		return nil, &InvalidError{"items", "is empty; order at least one item"}
	}
	if len(r.Items) > MaxLines {
		return nil, &InvalidError{"items", fmt.Sprintf("has %d lines; an order has at most %d", len(r.Items), MaxLines)}
	}
	lines := make([]Line, len(r.Items))
	for i, item := range r.Items {
		if !ValidSKU(item.SKU) {
			return nil, &InvalidError{fmt.Sprintf("items[%d].sku", i), fmt.Sprintf("is not a SKU: give 1 to %d of A-Z a-z 0-9 . _ -", MaxSKUBytes)}
		}
		if item.Quantity < 1 || item.Quantity > MaxQuantity {
			return nil, &InvalidError{fmt.Sprintf("items[%d].quantity", i), fmt.Sprintf("is %d; give a whole number from 1 to %d", item.Quantity, MaxQuantity)}
		}
		lines[i] = Line{SKU: item.SKU, Quantity: item.Quantity}
	}
	if len(lines) == 1 {
		return lines, nil
	}
	slices.SortStableFunc(lines, func(a, b Line) int { return strings.Compare(a.SKU, b.SKU) })
	merged := lines[:1]
	for _, l := range lines[1:] {
		last := &merged[len(merged)-1]
		if last.SKU != l.SKU {
			merged = append(merged, l)
			continue
		}
		if last.Quantity += l.Quantity; last.Quantity > MaxQuantity {
			return nil, &InvalidError{"items", fmt.Sprintf("the lines with %s add up to more than %d", l.SKU, MaxQuantity)}
		}
	}
	return merged, nil
}

// ValidSKU says whether a text can be a SKU.
func ValidSKU(s string) bool {
	if s == "" || len(s) > MaxSKUBytes || s == "." || s == ".." { // those two would be steps in an address
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// validate checks everything but the items.
func (r *Request) validate() error {
	if err := checkKey(r.Key); err != nil {
		return err
	}
	if r.PaymentToken == "" || len(r.PaymentToken) > MaxTokenBytes || !printable(r.PaymentToken) {
		return &InvalidError{"paymentToken", fmt.Sprintf("give the payment provider's token for the buyer's means of payment, 1 to %d printable characters", MaxTokenBytes)}
	}
	if r.Email != "" && !validEmail(r.Email) {
		return &InvalidError{"customer.email", "is not an e-mail address; mend it or leave it out"}
	}
	if r.Phone != "" && !validPhone(r.Phone) {
		return &InvalidError{"customer.phone", "is not a phone number: give digits, with + first for the country and spaces or dashes as you like"}
	}
	if err := checkText("note", r.Note); err != nil {
		return err
	}
	return r.Address.validate()
}

func (a *Address) validate() error {
	if a == nil {
		return nil
	}
	for _, f := range a.fields() {
		if err := checkText("shippingAddress."+f.name, f.text); err != nil {
			return err
		}
	}
	if c := a.Country; c != "" && (len(c) != 2 || c[0] < 'A' || c[0] > 'Z' || c[1] < 'A' || c[1] > 'Z') {
		return &InvalidError{"shippingAddress.country", "is not an ISO 3166 code of two capital letters, such as DE"}
	}
	return nil
}

func (a *Address) fields() []struct{ name, text string } {
	return []struct{ name, text string }{
		{"name", a.Name}, {"line1", a.Line1}, {"line2", a.Line2}, {"postalCode", a.PostalCode},
		{"city", a.City}, {"region", a.Region}, {"country", a.Country},
	}
}

// checkKey checks an idempotency key.
func checkKey(key string) error {
	if key == "" || len(key) > MaxKeyBytes || !printable(key) {
		return &InvalidError{"Idempotency-Key", fmt.Sprintf("give 1 to %d printable ASCII characters, such as a UUID", MaxKeyBytes)}
	}
	return nil
}

// checkText checks free text: what a database or a reader would choke on is
// refused here, and what would be many times as long in JSON.
func checkText(field, s string) error {
	switch {
	case len(s) > MaxTextBytes:
		return &InvalidError{field, fmt.Sprintf("has %d bytes; at most %d are kept", len(s), MaxTextBytes)}
	case !utf8.ValidString(s):
		return &InvalidError{field, "is not valid UTF-8"}
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' && c != '\r' && c != '\n' || c == 0x7f {
			return &InvalidError{field, fmt.Sprintf("holds the control character U+%04X at byte %d; remove it", c, i)}
		}
	}
	return nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// validEmail says whether a text could be an address at all; only a letter sent
// there can tell more.
func validEmail(s string) bool {
	at := strings.LastIndexByte(s, '@')
	return len(s) <= 254 && at > 0 && at < len(s)-1 && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

func validPhone(s string) bool {
	digits := 0
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			digits++
		case c == '+' && i == 0, c == ' ', c == '-', c == '(', c == ')', c == '/', c == '.':
		default:
			return false
		}
	}
	return digits >= 3 && digits <= 20 && len(s) <= 40
}

// fingerprint is the hash of what is asked for, so that a key that comes again
// can be told from a key that is used for something else. Lines are merged and
// sorted, so their order does not matter.
func (r *Request) fingerprint(lines []Line) [32]byte {
	h := fingerprinter{Hash: sha256.New()}
	h.number(int64(len(lines)))
	for _, l := range lines {
		h.text(l.SKU)
		h.number(l.Quantity)
	}
	h.text(r.PaymentToken)
	if r.Address != nil {
		for _, f := range r.Address.fields() {
			h.text(f.text)
		}
	}
	h.text(r.Email)
	h.text(r.Phone)
	h.text(r.Note)
	return h.sum()
}

// fingerprinter hashes texts with their lengths, so that no two lists of fields
// hash alike.
type fingerprinter struct {
	hash.Hash
	buf []byte
}

func (f *fingerprinter) text(s string) {
	f.buf = binary.AppendUvarint(f.buf, uint64(len(s)))
	f.buf = append(f.buf, s...)
}

func (f *fingerprinter) number(n int64) { f.buf = binary.AppendVarint(f.buf, n) }

func (f *fingerprinter) sum() (out [32]byte) {
	f.Write(f.buf)
	f.Sum(out[:0])
	return out
}
