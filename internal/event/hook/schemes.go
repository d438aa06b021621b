package hook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"millrace/internal/event/scan"
)

// mac is one HMAC-SHA256.
type mac = [sha256.Size]byte

// match reports whether any secret makes any of the signatures of the text that
// the parts form together. The time it takes tells only how many there are.
func (v *Verifier) match(signatures []mac, parts ...[]byte) bool {
	found := false
	for _, key := range v.secrets {
		h := hmac.New(sha256.New, key)
		for _, part := range parts {
			h.Write(part)
		}
		var sum mac
		h.Sum(sum[:0])
		for i := range signatures {
			if hmac.Equal(sum[:], signatures[i][:]) {
				found = true
			}
		}
	}
	return found
}

func (v *Verifier) mismatch() error {
	return v.refuse(Mismatch, "the signature does not fit: check the secret, and that nothing between the sender and here changes the body")
}

// inWindow checks a signed time against the replay window, whose edges belong
// to it.
func (v *Verifier) inWindow(at, now time.Time) error {
	switch age := now.Sub(at); {
	case age > v.source.Tolerance:
		return v.refuse(TooOld, fmt.Sprintf("it was signed more than %v ago: check the clocks of both sides; a sender that repeats it must sign it anew", v.source.Tolerance))
	case age < -v.source.Tolerance:
		return v.refuse(TooNew, fmt.Sprintf("it was signed more than %v in the future: check the clocks of both sides", v.source.Tolerance))
	}
	return nil
}

func (v *Verifier) github(h Header, body []byte, _ time.Time) (Delivery, error) {
	header, err := v.header(h, "X-Hub-Signature-256")
	if err != nil {
		return Delivery{}, err
	}
	id, err := v.idHeader(h, "X-Github-Delivery")
	if err != nil {
		return Delivery{}, err
	}
	name, err := v.idHeader(h, "X-Github-Event")
	if err != nil {
		return Delivery{}, err
	}
	signature, ok := parseGitHub(header)
	if !ok {
		return Delivery{}, v.refuse(MalformedHeader, `the header X-Hub-Signature-256 is not "sha256=" and 64 hexadecimal digits`)
	}
	if !v.match([]mac{signature}, body) {
		return Delivery{}, v.mismatch()
	}
	return Delivery{ID: id, Type: v.typed(name)}, v.checkBody(body)
}

// parseGitHub reads X-Hub-Signature-256.
func parseGitHub(header string) (mac, bool) {
	digits, ok := strings.CutPrefix(header, "sha256=")
	if !ok {
		return mac{}, false
	}
	return hexMAC(digits)
}

func hexMAC(digits string) (m mac, ok bool) {
	if len(digits) != hex.EncodedLen(len(m)) {
		return m, false
	}
	_, err := hex.Decode(m[:], []byte(digits))
	return m, err == nil
}

func (v *Verifier) stripe(h Header, body []byte, now time.Time) (Delivery, error) {
	header, err := v.header(h, "Stripe-Signature")
	if err != nil {
		return Delivery{}, err
	}
	seconds, signatures, problem := parseStripe(header)
	if problem != "" {
		return Delivery{}, v.refuse(MalformedHeader, "the header Stripe-Signature "+problem)
	}
	at := unixTime(seconds)
	if err := v.inWindow(at, now); err != nil {
		return Delivery{}, err
	}
	if !v.match(signatures, []byte(seconds), []byte{'.'}, body) {
		return Delivery{}, v.mismatch()
	}
	if err := v.checkBody(body); err != nil {
		return Delivery{}, err
	}
	d := Delivery{Timestamp: at}
	if created := string(scan.Member(body, "created")); isUnixTime(created) {
		d.Timestamp = unixTime(created)
	}
	id, okID := textMember(body, "id")
	name, okName := textMember(body, "type")
	if okID {
		d.ID = id
	}
	if okName {
		d.Type = v.typed(name)
	}
	if !okID || !okName {
		return d, v.refuse(BadBody, `the signature holds, but the body has no "id" and "type" of at most 128 bytes each: is it a Stripe event?`)
	}
	return d, nil
}

// parseStripe reads Stripe-Signature: "t=" and the signed time, and one or more
// "v1=". Other schemes are skipped, as Stripe asks. The problem is empty when
// it succeeds.
func parseStripe(header string) (seconds string, signatures []mac, problem string) {
	for item := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(item), "=")
		switch name {
		case "t":
			if seconds != "" {
				return "", nil, "has more than one t="
			}
			if !isUnixTime(value) {
				return "", nil, "has a t= that is not a time in Unix seconds"
			}
			seconds = value
		case "v1":
			m, ok := hexMAC(value)
			if !ok {
				return "", nil, "has a v1= that is not 64 hexadecimal digits"
			}
			if len(signatures) == maxSignatures {
				return "", nil, fmt.Sprintf("has more than %d signatures", maxSignatures)
			}
			signatures = append(signatures, m)
		}
	}
	if seconds == "" {
		return "", nil, "has no t="
	}
	if len(signatures) == 0 {
		return "", nil, "has no v1="
	}
	return seconds, signatures, ""
}

func (v *Verifier) standard(h Header, body []byte, now time.Time) (Delivery, error) {
	id, err := v.idHeader(h, "Webhook-Id")
	if err != nil {
		return Delivery{}, err
	}
	seconds, err := v.header(h, "Webhook-Timestamp")
	if err != nil {
		return Delivery{}, err
	}
	header, err := v.header(h, "Webhook-Signature")
	if err != nil {
		return Delivery{}, err
	}
	if !isUnixTime(seconds) {
		return Delivery{}, v.refuse(MalformedHeader, "the header Webhook-Timestamp is not a time in Unix seconds")
	}
	signatures, problem := parseStandard(header)
	if problem != "" {
		return Delivery{}, v.refuse(MalformedHeader, "the header Webhook-Signature "+problem)
	}
	at := unixTime(seconds)
	if err := v.inWindow(at, now); err != nil {
		return Delivery{}, err
	}
	if !v.match(signatures, []byte(id), []byte{'.'}, []byte(seconds), []byte{'.'}, body) {
		return Delivery{}, v.mismatch()
	}
	d := Delivery{ID: id, Type: v.typed("webhook"), Timestamp: at}
	if err := v.checkBody(body); err != nil {
		return d, err
	}
	if name, ok := textMember(body, "type"); ok {
		d.Type = v.typed(name)
	}
	return d, nil
}

// parseStandard reads webhook-signature: "v1," and base64, more of them behind
// spaces. Other versions are skipped, as the specification asks. The problem is
// empty when it succeeds.
func parseStandard(header string) (signatures []mac, problem string) {
	for item := range strings.FieldsSeq(header) {
		version, value, ok := strings.Cut(item, ",")
		if !ok {
			return nil, `has a part that is not a version, a comma and a signature`
		}
		if version != "v1" {
			continue
		}
		var m mac
		raw, err := base64.StdEncoding.Strict().DecodeString(value)
		if err != nil || len(raw) != len(m) {
			return nil, "has a v1 signature that is not base64 of 32 bytes"
		}
		if len(signatures) == maxSignatures {
			return nil, fmt.Sprintf("has more than %d signatures", maxSignatures)
		}
		copy(m[:], raw)
		signatures = append(signatures, m)
	}
	if len(signatures) == 0 {
		return nil, "has no v1 signature"
	}
	return signatures, ""
}

// isUnixTime reports whether text is a plain count of seconds, at most ten
// digits long: until the year 2262, which is what an event can keep, ten do.
func isUnixTime(text string) bool {
	if len(text) == 0 || len(text) > 10 || (len(text) == 10 && text > "9223372035") {
		return false
	}
	for i := range len(text) {
		if text[i]-'0' > 9 {
			return false
		}
	}
	return true
}

// unixTime returns the time that isUnixTime has accepted.
func unixTime(text string) time.Time {
	seconds, _ := strconv.ParseInt(text, 10, 64)
	return time.Unix(seconds, 0).UTC()
}

// textMember returns the text of a body's member that can be an id or a part of
// a type.
func textMember(body []byte, name string) (text string, ok bool) {
	value := scan.Member(body, name)
	if len(value) == 0 || value[0] != '"' || json.Unmarshal(value, &text) != nil {
		return "", false
	}
	return text, text != "" && len(text) <= maxHeaderIDBytes && isPlain(text)
}
