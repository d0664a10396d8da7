package configs

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strings"

	"millrace/protocols"
)

func (l *loader) checkBuffer(d *draft) {
	d.Buffer.Path = l.abs(d.Buffer.Path)
}

// checkUplinks completes the uplinks and checks what concerns several keys,
// or several uplinks.
func (l *loader) checkUplinks(d *draft) {
	names := map[string]protocols.Position{}
	clients := map[string]*uplinkDraft{}
	for _, u := range d.uplinks {
		if u.ClientID == "" {
			u.ClientID = d.Gateway.ID
		}
		l.unique(names, "uplink name", u.Name, u.node.get("name"))
		l.checkClient(clients, u)
		l.checkFormat(u)
		l.checkFallbacks(u)
		if u.Password != "" && u.Username == "" && u.node.get("username") == nil {
			l.problem(u.node.at("password"), "password: a password needs a user name: add username")
		}
		if n := u.node.get("tls"); n != nil && n.kind == mapNode {
			l.checkTLS(u, n)
		}
	}
}

// checkFormat refuses keys of the other format.
func (l *loader) checkFormat(u *uplinkDraft) {
	if n := u.node.get("topic"); n != nil && u.Format == FormatSparkplug {
		l.problem(n.pos, "topic: Sparkplug's topics all begin with spBv1.0: remove topic")
	}
	if n := u.node.get("primary_host"); n != nil && u.Format == FormatJSON {
		l.problem(n.pos, "primary_host: only format: sparkplug has one: add that, or remove primary_host")
	}
}

// checkFallbacks refuses brokers of which one would be sent in clear what the
// others get encrypted.
func (l *loader) checkFallbacks(u *uplinkDraft) {
	n := u.node.get("fallback")
	for i, f := range u.Fallback {
		pos := n.pos
		if n.kind == listNode && i < len(n.items) {
			pos = n.items[i].pos
		}
		if f == u.Broker {
			l.problem(pos, "fallback: this is the first broker again: give another one, or remove it")
		}
		if encrypted(f) != encrypted(u.Broker) {
			l.problem(pos, "fallback: one of the brokers is encrypted (mqtts, wss) and another is not: user, password and data would go out in clear; write both alike")
		}
	}
}

func encrypted(broker string) bool {
	return strings.HasPrefix(broker, "mqtts:") || strings.HasPrefix(broker, "wss:")
}

// checkFilters refuses globs that stand for nothing: a misspelt one would keep
// everything back.
func (l *loader) checkFilters(d *draft) {
	var ids, tags []string
	for _, dev := range d.devices {
		ids = append(ids, dev.ID)
		for i := range dev.Tags {
			tags = append(tags, dev.Tags[i].Name, dev.ID+"/"+dev.Tags[i].Name)
		}
	}
	if len(l.problems) > 0 {
		return // the devices may not all be there
	}
	for _, u := range d.uplinks {
		l.checkGlobs(u.node.get("devices"), "device", ids)
		l.checkGlobs(u.node.get("tags"), "tag", tags)
	}
}

func (l *loader) checkGlobs(list *node, what string, names []string) {
	if list == nil || list.kind != listNode {
		return
	}
	for _, n := range list.items {
		glob := n.text
		if n.bad || slices.ContainsFunc(names, func(s string) bool { return protocols.MatchGlob(glob, s) }) {
			continue
		}
		if near := nearest(glob, names); near != "" {
			l.problem(n.pos, "no %s is called %s; did you mean %q?", what, n.show(), near)
			continue
		}
		l.problem(n.pos, "no %s is called %s", what, n.show())
	}
}

// maxPEM is the size up to which a certificate file is read. The bundle of
// all public authorities has 220 kB.
const maxPEM = 4 << 20

// checkClient refuses two uplinks that would throw each other out: a broker
// ends the connection of the one when the other connects.
func (l *loader) checkClient(clients map[string]*uplinkDraft, u *uplinkDraft) {
	if u.Broker == "" || u.ClientID == "" {
		return
	}
	session := u.Broker + " " + u.ClientID
	first, ok := clients[session]
	if !ok {
		clients[session] = u
		return
	}
	pos := u.node.at("client_id")
	if u.node.get("client_id") == nil {
		pos = u.node.at("broker")
	}
	l.problem(pos, "this uplink has the same broker and client_id as the one in line %d; the broker would let only one of them in: give it its own client_id",
		first.node.pos.Line)
}

// unique reports a name that another one of its kind has already.
func (l *loader) unique(seen map[string]protocols.Position, what, name string, n *node) {
	if name == "" || n == nil || n.bad {
		return
	}
	if first, ok := seen[name]; ok {
		l.problem(n.pos, "the %s %s is there already, in %s: give this one another name", what, n.show(), line(first))
		return
	}
	seen[name] = n.pos
}

func (l *loader) checkTLS(u *uplinkDraft, n *node) {
	if strings.HasPrefix(u.Broker, "mqtt://") || strings.HasPrefix(u.Broker, "ws://") {
		secure := strings.NewReplacer("mqtt:", "mqtts:", "ws:", "wss:")
		scheme, _, _ := strings.Cut(u.Broker, "//")
		l.problem(n.pos, "tls: the broker's address begins with %s//, which is not encrypted: write %s//, or remove tls", scheme, secure.Replace(scheme))
		return
	}
	t := &u.TLS
	digest := sha256.New()
	ca := l.pemFile(&t.CA, "ca", n)
	cert := l.pemFile(&t.Cert, "cert", n)
	key := l.pemFile(&t.Key, "key", n)
	for _, data := range [][]byte{ca, cert, key} {
		sum := sha256.Sum256(data)
		digest.Write(sum[:])
	}
	t.Digest = hex.EncodeToString(digest.Sum(nil))
	if ca != nil && !x509.NewCertPool().AppendCertsFromPEM(ca) {
		l.problem(n.at("ca"), "ca: the file has no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
	}
	switch hasCert, hasKey := n.get("cert") != nil, n.get("key") != nil; {
	case hasCert && !hasKey:
		l.problem(n.at("cert"), "cert: a certificate needs its key: add key")
	case hasKey && !hasCert:
		l.problem(n.at("key"), "key: a key needs its certificate: add cert")
	}
	if cert == nil || key == nil {
		return
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		l.problem(n.at("cert"), "cert: the certificate and its key cannot be used together: %v", err)
	}
}

// pemFile makes *path absolute and returns the file's contents, nil if there
// is none.
func (l *loader) pemFile(path *string, name string, n *node) []byte {
	if *path == "" {
		return nil
	}
	written := *path
	*path = l.abs(written)
	data, err := readFile(*path, maxPEM)
	if err != nil {
		v := n.get(name)
		l.problem(v.pos, "%s: the file %s cannot be read: %v", name, l.display(v.raw), err)
		return nil
	}
	return data
}
