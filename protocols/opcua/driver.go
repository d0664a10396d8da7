package opcua

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"millrace/protocols"
)

// productURI names this software in a session.
const productURI = "urn:millrace:agent"

// Options are what a Driver needs from the program around it.
type Options struct {
	// Log takes what nobody waits for, such as lost notifications. Nil: nothing is logged.
	Log *slog.Logger
	// Now is the wall clock that readings and certificates are dated by. Nil: time.Now.
	Now func() time.Time
	// PKIDir is the directory for certificates. The driver's own certificate
	// and key are kept in its folder "own", and made there when the first bus
	// with security is opened. Devices without a trust directory of their own use its folder
	// "trusted". Empty: "pki".
	PKIDir string
	// ApplicationName is what servers show for this gateway's sessions, and
	// the common name of its certificate. Empty: "millrace".
	ApplicationName string
	// ApplicationURI identifies this gateway for good; it goes into the
	// certificate. Empty: "urn:millrace:" and the ApplicationName.
	ApplicationURI string
	// Memory keeps over restarts how far each tag was told, so that what was
	// missed in between can be read from the server's history; nil: nothing does.
	Memory protocols.Memory
}

// Driver is a protocols.Driver for OPC UA over TCP. It may be used by several
// goroutines.
type Driver struct {
	o       Options
	symbols symbols
	// These differ in tests only.
	trustLook  time.Duration // see the constant
	retryEvery time.Duration // see retryInterval
	lifetime   time.Duration // see channelLifetime

	mu  sync.Mutex
	own *identity // nil until it is needed
}

var (
	_ protocols.Driver     = (*Driver)(nil)
	_ protocols.Planner    = (*Driver)(nil)
	_ protocols.Subscriber = (*bus)(nil)
	_ protocols.Adviser    = (*bus)(nil)
	_ protocols.Ranger     = (*bus)(nil)
	_ protocols.Identifier = (*bus)(nil)
)

// New returns a driver. It touches neither disk nor network.
func New(o Options) *Driver {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.PKIDir == "" {
		o.PKIDir = "pki"
	}
	if o.ApplicationName == "" {
		o.ApplicationName = "millrace"
	}
	if o.ApplicationURI == "" {
		o.ApplicationURI = "urn:millrace:" + o.ApplicationName
	}
	return &Driver{o: o, symbols: newSymbols(), trustLook: trustLook, retryEvery: retryInterval, lifetime: channelLifetime}
}

// identity returns the driver's certificate and key, which it makes if they
// do not exist. Files that were changed are read again.
func (d *Driver) identity() (*identity, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir := filepath.Join(d.o.PKIDir, "own")
	if d.own != nil && d.own.stamp == ownStamp(dir) {
		return d.own, nil
	}
	own, err := loadIdentity(dir, d.o.ApplicationName, d.o.ApplicationURI, d.o.Now())
	if err != nil {
		return nil, fmt.Errorf("this gateway's own certificate: %w", err)
	}
	if own.fresh {
		s1, _ := fingerprints(own.leaf.Raw)
		d.o.Log.Info("this gateway's own certificate was made: servers are to trust it", "file", own.path, "sha1", s1, "application", own.uri)
	}
	d.own = own
	return own, nil
}

// ownText names our certificate for those who are to trust it on a server.
func (d *Driver) ownText() string {
	own, err := d.identity()
	if err != nil {
		return ownCertPath(filepath.Join(d.o.PKIDir, "own"))
	}
	s1, _ := fingerprints(own.leaf.Raw)
	text := fmt.Sprintf("%s (%s, SHA-1 %s)", own.path, own.uri, s1)
	return strings.Join(append([]string{text}, own.notes(d.o.Now())...), "; ")
}

// applicationURI must be the certificate's, where a certificate is shown.
func (d *Driver) applicationURI(secure bool) string {
	if secure {
		if own, err := d.identity(); err == nil {
			return own.uri
		}
	}
	return d.o.ApplicationURI
}

// Check finds the mistakes in d that this driver alone can see.
func (d *Driver) Check(dev *protocols.Device) []*protocols.FieldError {
	var found []*protocols.FieldError
	if _, err := parseEndpoint(dev.Endpoint); err != nil {
		found = append(found, &protocols.FieldError{Tag: -1, Field: "endpoint", Text: err.Error()})
	}
	if _, err := parseSecurity(&dev.OPCUA); err != nil {
		found = append(found, err)
	}
	if dev.OPCUA.Username == "" && dev.OPCUA.Password != "" {
		found = append(found, &protocols.FieldError{Tag: -1, Field: "auth.password", Text: "there is a password but no user name; give both, or neither for an anonymous session"})
	}
	if wrong := checkUser(&dev.OPCUA); wrong != nil {
		found = append(found, wrong)
	}
	for _, word := range dev.OPCUA.Tolerate {
		if !slices.Contains(tolerable(), word) {
			found = append(found, &protocols.FieldError{Tag: -1, Field: "security.tolerate", Text: fmt.Sprintf("%q cannot be tolerated; there are: %s", word, strings.Join(tolerable(), ", "))})
		}
	}
	for i := range dev.Tags {
		found = append(found, checkTag(i, &dev.Tags[i])...)
	}
	return found
}

// tolerable are the words of security.tolerate.
func tolerable() []string {
	return []string{protocols.TolerateHostName, protocols.TolerateExpired, protocols.TolerateApplicationURI, protocols.TolerateRevocation}
}

func checkUser(o *protocols.OPCUAOptions) *protocols.FieldError {
	switch {
	case o.Username != "" && o.UserCert != "":
		return &protocols.FieldError{Tag: -1, Field: "auth.cert", Text: "there is a user name too; log in with one of the two"}
	case o.UserCert != "" && o.UserKey == "":
		return &protocols.FieldError{Tag: -1, Field: "auth.cert", Text: "a certificate needs its key; give auth.key"}
	case o.UserKey != "" && o.UserCert == "":
		return &protocols.FieldError{Tag: -1, Field: "auth.key", Text: "a key needs its certificate; give auth.cert"}
	}
	return nil
}

func checkTag(i int, t *protocols.Tag) []*protocols.FieldError {
	var found []*protocols.FieldError
	if _, err := parseAddress(t.Address); err != nil {
		found = append(found, &protocols.FieldError{Tag: i, Field: "address", Text: err.Error()})
	}
	if t.Order != protocols.ABCD {
		found = append(found, &protocols.FieldError{Tag: i, Field: "order", Text: fmt.Sprintf("%s cannot be chosen: OPC UA values have no byte order; leave it empty", t.Order)})
	}
	return found
}

// BusKey returns what devices must have in common to share a session: the
// server, the security and the user.
func (d *Driver) BusKey(dev *protocols.Device) string {
	o := &dev.OPCUA
	endpoint := dev.Endpoint
	if u, err := parseEndpoint(endpoint); err == nil {
		u.Host = strings.ToLower(u.Host)
		endpoint = u.String()
	}
	// The password is not part of the key, which may be logged: one user has
	// one password.
	parts := []string{"opcua", endpoint, strings.ToLower(o.SecurityPolicy), o.SecurityMode, o.Username, o.Trust}
	if o.UserCert != "" || len(o.Tolerate) > 0 {
		parts = append(parts, o.UserCert, strings.Join(slices.Sorted(slices.Values(o.Tolerate)), ","))
	}
	return strings.Join(parts, "|")
}

// Open makes the bus for devices with one bus key. It does not connect.
func (d *Driver) Open(devices []*protocols.Device) (protocols.Bus, error) {
	if len(devices) == 0 {
		return nil, errors.New("opcua: a bus without devices")
	}
	conf, err := d.connConf(devices)
	if err != nil {
		return nil, err
	}
	if sec := conf.security.policy; sec != policyNone {
		// Here and not at the first connection: whoever runs the servers can be
		// told of it before they are there. A failure is said when it matters.
		if _, err := d.identity(); err != nil {
			d.o.Log.Warn("connections with security will fail", "because", err)
		}
	}
	b := newBus(d, conf)
	b.devices = len(devices)
	return b, nil
}

func (d *Driver) connConf(devices []*protocols.Device) (*connConf, error) {
	first := devices[0]
	u, err := parseEndpoint(first.Endpoint)
	if err != nil {
		return nil, &protocols.Error{Kind: protocols.KindBadAddress, Reason: protocols.Offline, Text: err.Error(), Err: err}
	}
	sec, wrong := parseSecurity(&first.OPCUA)
	if wrong != nil {
		return nil, &protocols.Error{Kind: protocols.KindBadAddress, Reason: protocols.Offline, Text: wrong.Error(), Err: wrong}
	}
	trusted := first.OPCUA.Trust
	if trusted == "" {
		trusted = filepath.Join(d.o.PKIDir, "trusted")
	}
	conf := &connConf{
		url: u, security: sec,
		user:  user{name: first.OPCUA.Username, password: first.OPCUA.Password, cert: first.OPCUA.UserCert, key: first.OPCUA.UserKey},
		trust: newTrustList(trusted), tolerate: first.OPCUA.Tolerate, trustLook: d.trustLook, device: first.ID,
		sessionTimeout: minSessionTimeout, lifetime: d.lifetime,
	}
	for _, dev := range devices {
		conf.timeout = max(conf.timeout, dev.Timeout)
		if n := dev.OPCUA.MaxPerCall; n > 0 && (conf.maxPerCall == 0 || n < conf.maxPerCall) {
			conf.maxPerCall = n
		}
		if p := dev.OPCUA.Profile; p != "" && p != profileAuto {
			conf.profile = p
		}
		conf.sessionTimeout = max(conf.sessionTimeout, 3*dev.Interval)
		for i := range dev.Tags {
			conf.sessionTimeout = max(conf.sessionTimeout, 3*dev.Tags[i].Interval)
		}
	}
	if conf.timeout <= 0 {
		conf.timeout = defaultTimeout
	}
	return conf, nil
}

// defaultTimeout is used where no device says one. Servers on small PLCs take
// seconds to set up a secure session.
const defaultTimeout = 5 * time.Second

// The size of a Read and of its answer, for the read plan: headers of channel,
// request and response without security, and what one node takes in either.
const (
	readOverhead   = 100
	answerOverhead = 60
	answerPerNode  = 27 // status good, two times, a Double
)

// Requests returns what one poll of the given tags sends. The sizes are
// estimates: only the server knows the types, and it may want smaller requests.
func (d *Driver) Requests(dev *protocols.Device, tags []int) []protocols.Request {
	var plan []protocols.Request
	for lo := 0; lo < len(tags); lo += maxNodesPerRead {
		chunk := tags[lo:min(lo+maxNodesPerRead, len(tags))]
		r := protocols.Request{
			What: fmt.Sprintf("Read of %d nodes", len(chunk)), Tags: len(chunk),
			ReqBytes: readOverhead, AnsBytes: answerOverhead + answerPerNode*len(chunk),
		}
		for _, t := range chunk {
			r.ReqBytes += len(dev.Tags[t].Address) + 16
		}
		plan = append(plan, r)
	}
	return plan
}
