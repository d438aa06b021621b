package config

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// fileSuffix makes of a secret's variable the one that names a file with it.
const fileSuffix = "_FILE"

// maxSecretBytes bounds what is read from such a file.
const maxSecretBytes = 64 << 10

// isSecret says whether a path is the key of a secret, or of a list of them.
func (s schema) isSecret(path string) bool {
	return s.isSecretList(path) || slices.ContainsFunc(s.secrets, func(p string) bool { return matches(p, path) })
}

func (s schema) isSecretList(path string) bool {
	return slices.ContainsFunc(s.secretLists, func(p string) bool { return matches(p, path) })
}

// secretOfEnvFile returns the key of the secret that the file named by a variable
// holds.
func (s schema) secretOfEnvFile(name string) (path string, ok bool) {
	base, ok := strings.CutSuffix(name, fileSuffix)
	if !ok {
		return "", false
	}
	path, ok = s.pathOfEnv(base)
	return path, ok && s.isSecret(path)
}

// readSecret reads the value of a secret key from a file. Space and newlines at its
// end are no part of it; where several secrets are asked for, each has a line.
func (s schema) readSecret(path, file string) (any, error) {
	secret, err := readSecret(file)
	if err != nil || !s.isSecretList(path) {
		return secret, err
	}
	var list []any
	for line := range strings.Lines(secret) {
		list = append(list, strings.TrimRight(line, "\r\n"))
	}
	return list, nil
}

func readSecret(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("the secret cannot be read: %w; check the path and its permissions", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("the secret cannot be read: %w", err)
	case len(text) > maxSecretBytes:
		return "", fmt.Errorf("the file %s has more than %d bytes: it is no secret", file, maxSecretBytes)
	}
	secret := strings.TrimRight(string(text), " \t\r\n")
	if secret == "" {
		return "", fmt.Errorf("the file %s is empty; write the secret into it", file)
	}
	return secret, nil
}
