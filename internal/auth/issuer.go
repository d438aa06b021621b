package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	pemBlockType = "PRIVATE KEY"
	// maxKeyFileBytes is far more than an Ed25519 key in PEM needs.
	maxKeyFileBytes = 64 << 10
	// maxTokenTTL bounds the life of a local token, which cannot be revoked.
	maxTokenTTL = 10 * 365 * 24 * time.Hour
)

// IssuerOptions says what local tokens carry. Zero fields take the default.
type IssuerOptions struct {
	// Issuer is the "iss" claim; "millrace" by default.
	Issuer string
	// Audience is the "aud" claim; "millrace" by default.
	Audience string
	// Leeway is how far clocks may differ when a token's begin and end are
	// judged: 0 to 5 minutes, 30 seconds by default. Negative means none.
	Leeway time.Duration
	// Now is the clock; time.Now by default.
	Now func() time.Time
}

func (o IssuerOptions) withDefaults() (IssuerOptions, error) {
	if o.Issuer == "" {
		o.Issuer = "millrace"
	}
	if o.Audience == "" {
		o.Audience = "millrace"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	var err error
	o.Leeway, err = checkLeeway(o.Leeway)
	return o, err
}

const (
	defaultLeeway = 30 * time.Second
	maxLeeway     = 5 * time.Minute
)

func checkLeeway(d time.Duration) (time.Duration, error) {
	switch {
	case d == 0:
		return defaultLeeway, nil
	case d < 0:
		return 0, nil
	case d > maxLeeway:
		return 0, fmt.Errorf("auth: a leeway of %s keeps expired tokens alive too long; use at most %s", d, maxLeeway)
	}
	return d, nil
}

// Issuer is the local token issuer: one Ed25519 key that signs tokens and
// verifies them. It is safe for concurrent use.
type Issuer struct {
	private ed25519.PrivateKey
	public  ed25519.PublicKey
	keyID   string
	rules   tokenRules
}

// LoadOrCreateIssuer reads the issuer's key from a PEM file (PKCS #8, Ed25519),
// or makes a new one there, with the folder it lies in. Processes that create it
// at the same time end up with the same key. A key that others may read is
// refused, since whoever reads it can be anyone.
func LoadOrCreateIssuer(path string, o IssuerOptions) (*Issuer, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	private, err := readKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createKeyFile(path); err != nil {
			return nil, err
		}
		private, err = readKeyFile(path)
	}
	if err != nil {
		return nil, err
	}
	return newIssuer(private, o), nil
}

func newIssuer(private ed25519.PrivateKey, o IssuerOptions) *Issuer {
	public := private.Public().(ed25519.PublicKey)
	sum := sha256.Sum256(public)
	return &Issuer{
		private: private,
		public:  public,
		keyID:   base64.RawURLEncoding.EncodeToString(sum[:9]),
		rules: tokenRules{
			algorithms:  []string{jwt.SigningMethodEdDSA.Alg()},
			issuer:      o.Issuer,
			audience:    o.Audience,
			tenantClaim: defaultTenantClaim,
			leeway:      o.Leeway,
			now:         o.Now,
			newToken:    "mint a new one with `millrace token`",
		},
	}
}

// KeyID is the "kid" of the issuer's tokens, made from its public key.
func (i *Issuer) KeyID() string { return i.keyID }

// Mint signs a token. The error, if any, is an *InvalidError that names the
// claim.
func (i *Issuer) Mint(c Claims) (string, error) {
	if err := ValidateTenantID(c.TenantID); err != nil {
		return "", err
	}
	if c.Subject == "" || len(c.Subject) > maxSubjectBytes {
		return "", &InvalidError{Field: "subject", Detail: fmt.Sprintf("the subject has %d bytes; give 1 to %d", len(c.Subject), maxSubjectBytes)}
	}
	if c.Scopes == 0 {
		return "", &InvalidError{Field: "scopes", Detail: "no scope is given; give at least one of " + listScopes()}
	}
	if c.TTL < time.Second || c.TTL > maxTokenTTL {
		return "", &InvalidError{Field: "ttl", Detail: fmt.Sprintf("a token cannot live for %s; use 1s to %s", c.TTL, maxTokenTTL)}
	}
	now := i.rules.now()
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss":               i.rules.issuer,
		"aud":               i.rules.audience,
		"sub":               c.Subject,
		i.rules.tenantClaim: c.TenantID,
		"scope":             c.Scopes.String(),
		"iat":               now.Unix(),
		"exp":               now.Add(c.TTL).Unix(),
	})
	token.Header["kid"] = i.keyID
	signed, err := token.SignedString(i.private)
	if err != nil {
		return "", fmt.Errorf("auth: sign a token: %w", err)
	}
	return signed, nil
}

// Verify checks a token of this issuer and returns who it speaks for. The error
// is an *Error. It remembers nothing: an Authenticator does.
func (i *Issuer) Verify(token string) (*Principal, error) {
	header, err := readHeader(token)
	if err != nil {
		return nil, err
	}
	p, _, err := i.verify(token, header)
	return p, err
}

func (i *Issuer) verify(token string, h tokenHeader) (*Principal, time.Time, error) {
	if err := i.rules.checkAlgorithm(h.Alg); err != nil {
		return nil, time.Time{}, err
	}
	if h.Kid != i.keyID {
		return nil, time.Time{}, &Error{Code: CodeTokenKeyUnknown, Detail: "the token was signed with a key that is not this server's (another data directory?); " + i.rules.newToken}
	}
	return i.rules.verify(token, func(*jwt.Token) (any, error) { return i.public, nil })
}

// readKeyFile reads the private key. The error wraps fs.ErrNotExist when there
// is no file.
func readKeyFile(path string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("auth: issuer key: %w", err)
	}
	// Windows has no such permission bits.
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("auth: issuer key %s may be read or changed by others (mode %04o), who could then mint tokens; "+
			"run `chmod 600 %s`, or delete it to get a new one (which ends all tokens)", path, mode, path)
	}
	if info.Size() > maxKeyFileBytes {
		return nil, fmt.Errorf("auth: issuer key %s has %d bytes and cannot be a key; delete it to get a new one (which ends all tokens)", path, info.Size())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("auth: issuer key: %w", err)
	}
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != pemBlockType || len(rest) != 0 {
		return nil, fmt.Errorf("auth: issuer key %s is not one PEM block of type %q; restore it, or delete it to get a new one (which ends all tokens)", path, pemBlockType)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("auth: issuer key %s is damaged; restore it, or delete it to get a new one (which ends all tokens): %w", path, err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("auth: issuer key %s is a %T, it must be an Ed25519 key; restore it, or delete it to get a new one (which ends all tokens)", path, key)
	}
	return private, nil
}

// createKeyFile makes a new key at path unless there is one by then. The file
// appears under its name only when it is complete and on disk.
func createKeyFile(path string) (err error) {
	fail := func(err error) error { return fmt.Errorf("auth: create issuer key %s: %w", path, err) }
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fail(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fail(err)
	}
	temp, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return fail(err)
	}
	defer os.Remove(temp.Name()) // fails, harmlessly, when it was renamed
	err = pem.Encode(temp, &pem.Block{Type: pemBlockType, Bytes: der})
	if err == nil {
		err = temp.Sync()
	}
	if err := errors.Join(err, temp.Close()); err != nil {
		return fail(err)
	}
	if err := publish(temp.Name(), path); err != nil {
		return fail(err)
	}
	if err := syncDir(dir); err != nil {
		return fail(err)
	}
	return nil
}

// publish gives a file its name unless the name is taken. A hard link does that
// atomically; where there are none a rename has to do.
func publish(temp, path string) error {
	err := os.Link(temp, path)
	switch {
	case err == nil, errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, syscall.EPERM), errors.Is(err, errors.ErrUnsupported):
		return os.Rename(temp, path)
	}
	return err
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // folders cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
