package servers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Certificate is a certificate for 127.0.0.1 and localhost, good for servers and
// for clients, with the authority that signed it. It lives for a day.
type Certificate struct {
	CAFile   string // PEM, what the other side trusts
	CertFile string // PEM
	KeyFile  string // PEM, mode 0600
}

// NewCertificate makes an authority and a certificate that it signs, whose common
// name is given, and writes them into dir.
func NewCertificate(dir, commonName string) (*Certificate, error) {
	now := time.Now()
	validity := x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), BasicConstraintsValid: true}
	ca := validity
	ca.SerialNumber, ca.Subject, ca.IsCA = big.NewInt(1), pkix.Name{CommonName: "Millrace test authority"}, true
	ca.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	leaf := validity
	leaf.SerialNumber, leaf.Subject = big.NewInt(2), pkix.Name{CommonName: commonName}
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	leaf.DNSNames, leaf.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}

	caKey, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	key, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	caDER, err1 := x509.CreateCertificate(rand.Reader, &ca, &ca, caKey.Public(), caKey)
	certDER, err2 := x509.CreateCertificate(rand.Reader, &leaf, &ca, key.Public(), caKey)
	keyDER, err3 := x509.MarshalPKCS8PrivateKey(key)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	c := &Certificate{CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")}
	return c, errors.Join(
		writePEM(c.CAFile, "CERTIFICATE", caDER),
		writePEM(c.CertFile, "CERTIFICATE", certDER),
		writePEM(c.KeyFile, "PRIVATE KEY", keyDER))
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// ClientConfig is the TLS configuration of a client that trusts the authority and
// shows the certificate.
func (c *Certificate) ClientConfig() (*tls.Config, error) {
	text, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", c.CAFile)
	}
	pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, ServerName: "localhost"}, nil
}
