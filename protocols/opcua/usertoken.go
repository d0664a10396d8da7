package opcua

import (
	"bytes"
	"cmp"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uapolicy"
)

// user is who logs in. All empty: nobody in particular.
type user struct {
	name, password string
	cert, key      string // files
}

// login is how the session is told who we are.
type login struct {
	policyID string // the server's name for the kind of token
	policy   string // URI of the security policy that protects the token
}

var (
	errNoAnonymous = errors.New("the server does not accept anonymous sessions; give auth: {username: …, password: …} or auth: {cert: …, key: …}")
	errNoUsername  = errors.New("the server does not accept a user name at this security policy; leave auth out, or ask the one who runs the server")
	errNoUserCert  = errors.New("the server does not accept a user's certificate at this security policy; give auth: {username: …, password: …}, or ask the one who runs the server")
	errClearText   = errors.New("the password would go out unencrypted, so it was not sent; take security: {policy: Basic256Sha256, mode: SignAndEncrypt}, or have the server encrypt user names")
	errUnsigned    = errors.New("the server names no security policy to sign with the user's key; take security: {policy: Basic256Sha256}, or have the server name one for certificates")
)

// chooseLogin picks the kind of user token, and the strongest policy for it.
// A password never goes out in clear: either its token has a policy of its
// own, or the channel encrypts.
func chooseLogin(e *ua.EndpointDescription, u user) (login, error) {
	want, missing := ua.UserTokenTypeAnonymous, errNoAnonymous
	switch {
	case u.cert != "":
		want, missing = ua.UserTokenTypeCertificate, errNoUserCert
	case u.name != "":
		want, missing = ua.UserTokenTypeUserName, errNoUsername
	}
	var fitting []login
	for _, t := range e.UserIdentityTokens {
		if t != nil && t.TokenType == want {
			// Part 4, 7.41: an empty policy means the channel's.
			fitting = append(fitting, login{policyID: t.PolicyID, policy: cmp.Or(t.SecurityPolicyURI, e.SecurityPolicyURI)})
		}
	}
	if len(fitting) == 0 {
		return login{}, missing
	}
	if want == ua.UserTokenTypeAnonymous {
		return fitting[0], nil
	}
	strongest := slices.MaxFunc(fitting, func(a, b login) int { return cmp.Compare(a.strength(), b.strength()) })
	if strongest.strength() > 0 {
		return strongest, nil
	}
	if want == ua.UserTokenTypeCertificate {
		return login{}, errUnsigned
	}
	// The channel must do it, for a token that says so: one whose policy is
	// not known here (elliptic curves) cannot be made.
	i := slices.IndexFunc(fitting, func(l login) bool { return policyName(l.policy) == policyNone })
	if e.SecurityMode != ua.MessageSecurityModeSignAndEncrypt || i < 0 {
		return login{}, errClearText
	}
	return fitting[i], nil
}

// strength is 0 where the token would not be protected by itself, or not
// by a policy we can use.
func (l login) strength() int {
	i := slices.Index(policies(), policyName(l.policy))
	if i < 0 {
		return 0
	}
	return len(policies()) - i
}

// token makes the user token of a session, and the signature that goes with a
// certificate (Part 4, 7.40). cert and nonce are the server's.
//
// gopcua's EncryptUserPassword and NewUserTokenSignature are not used: they
// want the key of the channel to fit the policy of the token, and put the
// whole of a chain under the signature.
func (u user) token(l login, cert, nonce []byte) (any, *ua.SignatureData, error) {
	none := &ua.SignatureData{}
	switch {
	case u.cert != "":
		return u.certificate(l, cert, nonce)
	case u.name != "":
		pass, alg, err := encryptPassword(l.policy, u.password, cert, nonce)
		if err != nil {
			return nil, nil, fmt.Errorf("encrypting the password: %w", err)
		}
		return &ua.UserNameIdentityToken{PolicyID: l.policyID, UserName: u.name, Password: pass, EncryptionAlgorithm: alg}, none, nil
	}
	return &ua.AnonymousIdentityToken{PolicyID: l.policyID}, none, nil
}

// encryptPassword encrypts a password of any length for the server's key
// (Part 4, 7.40.2.2: its length, itself, the server's nonce, in as many blocks
// as it takes).
func encryptPassword(policy, password string, cert, nonce []byte) (secret []byte, algorithm string, err error) {
	if policyName(policy) == policyNone {
		return []byte(password), "", nil // the channel encrypts; see chooseLogin
	}
	enc, err := remoteAlgorithm(policy, nil, cert)
	if err != nil {
		return nil, "", err
	}
	plain := binary.LittleEndian.AppendUint32(nil, uint32(len(password)+len(nonce)))
	plain = append(plain, password...)
	plain = append(plain, nonce...)
	secret, err = enc.Encrypt(plain)
	return secret, enc.EncryptionURI(), err
}

// certificate reads the user's certificate and key, which may have been
// renewed since the last time, and signs with it.
func (u user) certificate(l login, cert, nonce []byte) (any, *ua.SignatureData, error) {
	leaf, key, err := loadUser(u.cert, u.key)
	if err != nil {
		return nil, nil, err
	}
	if text := keyFault(&key.PublicKey, policyName(l.policy)); text != "" {
		return nil, nil, &userError{fmt.Sprintf("the user's certificate %s: %s; have one with such a key made", u.cert, text)}
	}
	sig, err := sign(l.policy, key, cert, nonce)
	if err != nil {
		return nil, nil, fmt.Errorf("signing with the user's key: %w", err)
	}
	return &ua.X509IdentityToken{PolicyID: l.policyID, CertificateData: leaf.Raw}, sig, nil
}

// userError says why a user's certificate cannot be used.
type userError struct{ text string }

func (e *userError) Error() string { return e.text }

// loadUser reads a user's certificate and the key that belongs to it.
func loadUser(certPath, keyPath string) (*x509.Certificate, *rsa.PrivateKey, error) {
	data, err := os.ReadFile(certPath)
	if err != nil {
		return nil, nil, &userError{"the user's certificate (auth.cert) cannot be read: " + err.Error()}
	}
	key, err := loadKey(keyPath)
	if err != nil {
		if _, said := errors.AsType[*keyError](err); !said {
			return nil, nil, &userError{"the user's key (auth.key) cannot be read: " + err.Error()}
		}
		return nil, nil, &userError{"the user's key (auth.key): " + err.Error()}
	}
	leaf, _, err := ownChain(parseCerts(data), key)
	if err != nil {
		return nil, nil, &userError{fmt.Sprintf("the user's certificate %s %v %s; give the two that belong together", certPath, err, keyPath)}
	}
	return leaf, key, nil
}

// remoteAlgorithm is a policy's way to encrypt for the owner of a
// certificate, to check what it signed, and to sign with key (which may be nil).
func remoteAlgorithm(policy string, key *rsa.PrivateKey, cert []byte) (*uapolicy.EncryptionAlgorithm, error) {
	leaf, err := uapolicy.ParseCertificate(cert)
	if err != nil {
		return nil, fmt.Errorf("the server's certificate: %w", err)
	}
	remote, ok := leaf.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the server's certificate has a %s key, not RSA", leaf.PublicKeyAlgorithm)
	}
	return uapolicy.Asymmetric(policy, key, remote)
}

// sign signs the server's certificate and nonce (Part 4, 5.6.3.1: of a chain,
// its leaf alone).
func sign(policy string, key *rsa.PrivateKey, cert, nonce []byte) (*ua.SignatureData, error) {
	if policyName(policy) == policyNone {
		return &ua.SignatureData{}, nil
	}
	alg, err := remoteAlgorithm(policy, key, cert)
	if err != nil {
		return nil, err
	}
	sig, err := alg.Signature(slices.Concat(leafOf(cert), nonce))
	if err != nil {
		return nil, err
	}
	return &ua.SignatureData{Algorithm: alg.SignatureURI(), Signature: sig}, nil
}

// proven checks the server's signature over our certificate and nonce. The
// standard wants it over the leaf of a chain; older servers sign the whole
// (Part 4, 5.6.2.2).
func proven(policy string, server, own, nonce, signature []byte) bool {
	alg, err := remoteAlgorithm(policy, nil, server)
	if err != nil {
		return false
	}
	leaf := leafOf(own)
	if alg.VerifySignature(slices.Concat(leaf, nonce), signature) == nil {
		return true
	}
	return !bytes.Equal(leaf, own) && alg.VerifySignature(slices.Concat(own, nonce), signature) == nil
}

// leafOf returns the first certificate of a chain in DER.
func leafOf(chain []byte) []byte {
	certs, err := x509.ParseCertificates(chain)
	if err != nil || len(certs) == 0 {
		return chain
	}
	return certs[0].Raw
}
