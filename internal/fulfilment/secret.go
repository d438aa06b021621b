package fulfilment

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	secretPrefix = "whsec_"
	// The bounds of a key, as Standard Webhooks gives them.
	minKeyBytes, maxKeyBytes = 24, 64
	newKeyBytes              = 32
	// rotationOverlap is how long a secret that was replaced still signs.
	rotationOverlap = 24 * time.Hour
	// maxSecrets bounds the signatures of one webhook.
	maxSecrets = 3
)

// NewSecret returns a random signing secret: "whsec_" and base64.
func NewSecret() string {
	var key [newKeyBytes]byte
	rand.Read(key[:]) // never fails: the process ends if the system has no randomness
	return secretPrefix + base64.StdEncoding.EncodeToString(key[:])
}

// keyOf returns the bytes of a secret.
func keyOf(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, secretPrefix)
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(key) < minKeyBytes || len(key) > maxKeyBytes {
		return nil, &InvalidError{"secret", fmt.Sprintf("must be %q and standard base64 of %d to %d bytes; leave it out to get one", secretPrefix, minKeyBytes, maxKeyBytes)}
	}
	return key, nil
}

// rotated returns secrets with a new one in front; the one before still signs for
// a while.
func rotated(secrets []Secret, key string, now time.Time) []Secret {
	out := []Secret{{Key: key}}
	for i, s := range secrets {
		if i == 0 {
			s.ExpiresAt = now.Add(rotationOverlap)
		}
		if len(out) < maxSecrets && s.ExpiresAt.After(now) && s.Key != key {
			out = append(out, s)
		}
	}
	return out
}

// signature returns the webhook-signature header: one v1 signature of "id.time.body"
// for each secret that is in force.
func signature(secrets []Secret, id string, at time.Time, payload []byte) (string, error) {
	var out []string
	for _, s := range secrets {
		if !s.ExpiresAt.IsZero() && !s.ExpiresAt.After(at) {
			continue
		}
		key, err := keyOf(s.Key)
		if err != nil {
			return "", fmt.Errorf("the endpoint has a signing secret that cannot be read; rotate it: %w", err)
		}
		h := hmac.New(sha256.New, key)
		h.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
		h.Write(payload)
		out = append(out, "v1,"+base64.StdEncoding.EncodeToString(h.Sum(nil)))
	}
	return strings.Join(out, " "), nil
}
