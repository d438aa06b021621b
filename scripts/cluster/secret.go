package main

import (
	"crypto/rand"
	"os"
	"strings"
)

// secret returns the text of a file of the cluster, made at random if it is not
// there.
func (c *cluster) secret(name string) (string, error) {
	if err := os.MkdirAll(c.in("secrets"), 0o700); err != nil {
		return "", err
	}
	path := c.in("secrets", name)
	text, err := os.ReadFile(path)
	if err == nil && len(text) > 0 {
		return strings.TrimSpace(string(text)), nil
	}
	secret := rand.Text()
	return secret, os.WriteFile(path, []byte(secret+"\n"), 0o600)
}

// issuerKey is the key of the issuer of tokens that all instances share.
func (c *cluster) issuerKey() string { return c.in("secrets", "issuer.key") }
