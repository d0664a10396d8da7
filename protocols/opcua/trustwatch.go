package opcua

import (
	"time"

	"github.com/gopcua/opcua/ua"
)

// trustLook is how often the certificate of a standing connection is looked
// up again.
const trustLook = 30 * time.Second

// trustWatch ends a connection whose server's certificate is taken out of the
// trust list, or revoked. What the connection's owner sees is that it broke;
// the next one is refused, with the reason.
type trustWatch struct{ quit, done chan struct{} }

func (d *Driver) watchTrust(ch *channel, e *ua.EndpointDescription, conf *connConf) *trustWatch {
	w := &trustWatch{quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		ticker := time.NewTicker(conf.trustLook)
		defer ticker.Stop()
		for {
			select {
			case <-w.quit:
				return
			case <-ticker.C:
			}
			if err := conf.trust.stillTrusted(e.ServerCertificate, d.demand(e, conf)); err != nil {
				d.o.Log.Warn("the connection is ended", "endpoint", conf.url.Host, "because", err)
				_ = ch.conn.Close()
				return
			}
		}
	}()
	return w
}

// stop ends the watch, and returns when it has ended. There need be none.
func (w *trustWatch) stop() {
	if w != nil {
		close(w.quit)
		<-w.done
	}
}

// demand is what the certificate of an endpoint is held against.
func (d *Driver) demand(e *ua.EndpointDescription, conf *connConf) demand {
	want := demand{host: conf.url.Hostname(), policy: policyName(e.SecurityPolicyURI), tolerate: conf.tolerate, now: d.o.Now()}
	if e.Server != nil {
		want.uri = e.Server.ApplicationURI
	}
	return want
}

// securityNotes are what is to be said of a session's security, though it was
// made.
func (d *Driver) securityNotes(e *ua.EndpointDescription, v *verdict) []string {
	var notes []string
	if policy := policyName(e.SecurityPolicyURI); deprecated(policy) {
		notes = append(notes, "security policy "+policy+" is deprecated, because it rests on SHA-1: have the server offer Basic256Sha256 or better, and name that in security.policy")
	}
	if v != nil {
		notes = append(notes, v.notes...)
		if own, err := d.identity(); err == nil {
			notes = append(notes, own.notes(d.o.Now())...)
		}
	}
	return notes
}
