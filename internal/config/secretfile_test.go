package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestASecretIsReadFromAFile(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg, err := Load("", []string{
		"MILLRACE_STORE__DRIVER=postgres",
		"MILLRACE_STORE__POSTGRES__DSN_FILE=" + file("dsn", "postgres://db/millrace\n"),
		"MILLRACE_HOOKS__SHOP__SCHEME=github", "MILLRACE_HOOKS__SHOP__TENANT=demo",
		"MILLRACE_HOOKS__SHOP__SECRETS_FILE=" + file("hooks", "with, comma\r\nsecond\n"),
		"MILLRACE_AUTH__KEY_FILE=" + filepath.Join(dir, "not read here"),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var secrets []string
	for _, s := range cfg.Hooks["shop"].Secrets {
		secrets = append(secrets, s.Reveal())
	}
	got := append(secrets, cfg.Store.Postgres.DSN.Reveal())
	if diff := cmp.Diff([]string{"with, comma", "second", "postgres://db/millrace"}, got); diff != "" {
		t.Errorf("secrets (-want +got):\n%s", diff)
	}
}

func TestAFileOfASecretThatIsNoneIsNamed(t *testing.T) {
	dir := t.TempDir()
	empty, large := filepath.Join(dir, "empty"), filepath.Join(dir, "large")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(large, make([]byte, maxSecretBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		env  []string
		want string
	}{
		{"a file that is not there", []string{"MILLRACE_REDIS__PASSWORD_FILE=" + filepath.Join(dir, "gone")}, "redis.password (MILLRACE_REDIS__PASSWORD_FILE): the secret cannot be read"},
		{"an empty file", []string{"MILLRACE_REDIS__PASSWORD_FILE=" + empty}, "is empty; write the secret into it"},
		{"a large file", []string{"MILLRACE_REDIS__PASSWORD_FILE=" + large}, "it is no secret"},
		{"two ways at once", []string{"MILLRACE_REDIS__PASSWORD=x", "MILLRACE_REDIS__PASSWORD_FILE=" + large}, "it is no secret"},
		{"a file for what is no secret", []string{"MILLRACE_REDIS__USER_FILE=" + empty}, "there is no such variable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Load("", c.env, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestASecretIsNotTakenFromTheCommandLine(t *testing.T) {
	_, err := Load("", nil, []Flag{{Name: "--set", Key: "redis.password", Value: "hunter2"}})
	if err == nil || !strings.Contains(err.Error(), "set MILLRACE_REDIS__PASSWORD, or MILLRACE_REDIS__PASSWORD_FILE to a file with it") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error is %v", err)
	}
}
