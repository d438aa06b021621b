package httpapi

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate is a certificate that follows its files. A handshake looks at most
// once a second whether they changed; a pair that cannot be loaded is logged, and
// the old one is served on.
type certificate struct {
	certFile, keyFile string
	logger            *slog.Logger
	metrics           *Metrics
	now               func() time.Time

	mu      sync.Mutex
	pair    *tls.Certificate
	stamp   [2]fileStamp // of the pair that was tried last
	checked time.Time
}

// fileStamp tells one state of a file from another.
type fileStamp struct {
	changed time.Time
	size    int64
}

const certificateCheckEvery = time.Second

func newCertificate(certFile, keyFile string, logger *slog.Logger, m *Metrics) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, logger: logger, metrics: m, now: time.Now}
	stamp, err := c.stamps()
	if err != nil {
		return nil, err
	}
	if err := c.load(); err != nil {
		return nil, err
	}
	c.stamp, c.checked = stamp, c.now()
	return c, nil
}

// get returns the certificate to serve; crypto/tls calls it for each handshake.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.checked) >= certificateCheckEvery {
		c.checked = now
		c.follow()
	}
	return c.pair, nil
}

// follow loads the files if they changed. The lock is held.
func (c *certificate) follow() {
	stamp, err := c.stamps()
	if err == nil && stamp == c.stamp {
		return
	}
	if err == nil {
		err = c.load()
		c.stamp = stamp // a broken pair is not tried again until it changes
	}
	if err != nil {
		c.metrics.certFails.Inc()
		c.logger.Error("the TLS certificate changed but cannot be loaded; the old one is served on until the files are mended", "error", err)
		return
	}
	c.logger.Info("TLS certificate loaded again", "file", c.certFile, "notAfter", c.pair.Leaf.NotAfter)
}

func (c *certificate) load() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("TLS: loading certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return fmt.Errorf("TLS: reading certificate %s: %w", c.certFile, err)
		}
	}
	c.pair = &pair
	c.metrics.certUntil.Set(float64(pair.Leaf.NotAfter.Unix()))
	return nil
}

func (c *certificate) stamps() (out [2]fileStamp, err error) {
	for i, name := range [...]string{c.certFile, c.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return out, fmt.Errorf("TLS: %w", err)
		}
		out[i] = fileStamp{changed: info.ModTime(), size: info.Size()}
	}
	return out, nil
}
