package mqtt

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// TLS names the files that secure a connection, all in PEM. They are read
// again for every connection, so a renewed certificate needs no restart.
type TLS struct {
	CA   string // certificates accepted as the broker's issuer; empty: the system's
	Cert string // the gateway's own certificate, and Key, if the broker wants one
	Key  string
	// ServerName is what the broker's certificate must be made out to, where
	// that is not the host that is connected to.
	ServerName string
}

// Config reads the files. The configuration asks for TLS 1.2 or newer and
// verifies that the broker's certificate is for the given host name.
func (t TLS) Config(host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cmp.Or(t.ServerName, host)}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("tls.ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca: %s holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)", t.CA)
		}
	}
	switch {
	case t.Cert == "" && t.Key == "":
		return c, nil
	case t.Key == "":
		return nil, errors.New("tls.cert is given without tls.key; both are needed")
	case t.Cert == "":
		return nil, errors.New("tls.key is given without tls.cert; both are needed")
	}
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("tls.cert %s with tls.key %s: %w", t.Cert, t.Key, err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}
