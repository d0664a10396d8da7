package configs

import (
	"slices"
	"strings"
	"time"

	"millrace/protocols"
)

func opcuaKeys() []key[deviceDraft] {
	return []key[deviceDraft]{
		{
			name: "mode", def: "subscribe", only: opcuaDriver,
			doc: "subscribe: the server reports changes. poll: tags are read at their interval.",
			val: as(choice(nil, "subscribe", "poll"), func(d *deviceDraft, v string) { d.OPCUA.Subscribe = v == "subscribe" }),
		},
		{
			name: "security", required: true, only: opcuaDriver,
			doc: "How messages are signed and encrypted. Write {policy: auto} or {policy: Basic256Sha256}, or {policy: None} if the server offers nothing else and the network is trusted.",
			val: object[deviceDraft, securityDraft]{
				table: securityTable(),
				hint:  "write security: {policy: Basic256Sha256}, or {policy: None} if the network is trusted",
				at:    func(d *deviceDraft, _ *node) *securityDraft { return &d.security },
			},
		},
		{
			name: "auth", only: opcuaDriver,
			doc: "The user: a name and a password, or a certificate and its key. Left out: anonymous.",
			val: object[deviceDraft, authDraft]{
				table: authTable(),
				hint:  `write auth: {username: NAME, password: "${env:NAME}"}`,
				at:    func(d *deviceDraft, _ *node) *authDraft { return &d.auth },
			},
		},
		{
			name: "trust", def: "pki/trusted", only: opcuaDriver,
			doc: "The directory of the server certificates that are accepted, or of the authorities that issue them, relative to this file. " +
				"Unknown ones are refused, and kept in the directory rejected beside it: see millrace trust. Authorities in the directory issuers beside it only complete chains.",
			val: as(filled("a directory"), func(d *deviceDraft, v string) { d.OPCUA.Trust = v }),
		},
	}
}

// opcuaReadKeys are about what is asked of a server, and how much at once.
func opcuaReadKeys() []key[deviceDraft] {
	return []key[deviceDraft]{
		{
			// 0: see protocols.OPCUAOptions.
			name: "queue", only: opcuaDriver,
			doc: "How many values of one tag the server keeps between two of its messages. Left out: as many as ten seconds bring, 10 to 1000.",
			val: as(integer(1, 100_000), func(d *deviceDraft, v int) { d.OPCUA.Queue = v }),
		},
		{
			// A night without a network; longer ones are for a person to look at.
			name: "history", def: "24h", only: opcuaDriver,
			doc: "How far back values that were missed are read from the server's history, where it has one. 0s: never.",
			val: as(duration(time.Second, 90*24*time.Hour, true), func(d *deviceDraft, v time.Duration) { d.OPCUA.History = v }),
		},
		{
			name: "max_per_call", only: opcuaDriver,
			doc: "How many nodes one request may name, for servers that take fewer than they say. Left out: what the server says, or its profile.",
			val: as(integer(1, 10_000), func(d *deviceDraft, v int) { d.OPCUA.MaxPerCall = v }),
		},
		{
			name: "profile", def: "auto", only: opcuaDriver,
			doc: "What is known of the server's make beyond what it says of itself. auto: found out by its product name. none: nothing.",
			val: as(choice(nil, "auto", "none", "s7-1200", "s7-1500"), func(d *deviceDraft, v string) { d.OPCUA.Profile = v }),
		},
	}
}

func securityTable() table[securityDraft] {
	return table[securityDraft]{where: "security", keys: []key[securityDraft]{
		{
			name: "policy", required: true,
			doc: "The security policy. auto: the strongest that the server offers, and never None. None sends everything in clear, and does not look who answers. " +
				"Basic256 and Basic128Rsa15 are deprecated: only for servers that have nothing better.",
			val: as(securityPolicy(), func(s *securityDraft, v string) { s.policy = v }),
		},
		{
			name: "mode",
			doc:  "Whether messages are only signed. Default: SignAndEncrypt; with policy auto: the strongest that the server offers; with policy None: None.",
			val:  as(choice(nil, "SignAndEncrypt", "Sign", "None"), func(s *securityDraft, v string) { s.mode = v }),
		},
		{
			name: "tolerate",
			doc: "What may be wrong with a server's certificate that is trusted all the same, for servers that make wrong ones: host_name (it is for another host), " +
				"expired, application_uri (it is for another application), revocation (its issuer's list is out of date).",
			val: words[securityDraft]{
				form: choice(nil, protocols.TolerateHostName, protocols.TolerateExpired, protocols.TolerateApplicationURI, protocols.TolerateRevocation),
				hint: "write tolerate: [" + protocols.TolerateHostName + "]",
				put:  func(s *securityDraft, v []string) { s.tolerate = v },
			},
		},
	}}
}

// securityPolicy is a policy's name. Servers and their manuals write it with
// hyphens, too.
func securityPolicy() form[string] {
	names := []string{"auto", "None", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss", "Basic256", "Basic128Rsa15"}
	f := choice(nil, names...)
	plain := f.parse
	f.parse = func(s string) (string, error) {
		return plain(strings.ReplaceAll(s, "-", "_"))
	}
	spelt := slices.Clone(names)
	for _, n := range names {
		if strings.Contains(n, "_") {
			spelt = append(spelt, strings.ReplaceAll(n, "_", "-"))
		}
	}
	f.spec = schema{"type": "string", "enum": spelt}
	return f
}

func authTable() table[authDraft] {
	return table[authDraft]{where: "auth", keys: []key[authDraft]{
		{
			name: "username",
			doc:  "The user name.",
			val:  as(numbered("a user name"), func(a *authDraft, v string) { a.username = v }),
		},
		{
			name: "password",
			doc:  "The password; better as ${file:PATH} or ${env:NAME} than in this file.",
			val:  as(anyText(), func(a *authDraft, v string) { a.password = v }),
		},
		{
			name: "cert",
			doc:  "The user's certificate, to log in with instead of a name: a file (DER or PEM), relative to this file.",
			val:  as(filled("a file"), func(a *authDraft, v string) { a.cert = v }),
		},
		{
			name: "key",
			doc:  "The key of the user's certificate: a file (PEM, without a passphrase), relative to this file.",
			val:  as(filled("a file"), func(a *authDraft, v string) { a.key = v }),
		},
	}}
}

// words is a list of words, each of the form, none of them twice.
type words[T any] struct {
	form   form[string]
	hint   string
	single bool // one that stands alone is a list of one
	put    func(*T, []string)
}

func (w words[T]) read(l *loader, name string, n *node, t *T) {
	items := n.items
	switch {
	case n.kind == textNode && w.single:
		items = []*node{n}
	case n.kind != listNode:
		l.problem(n.pos, "%s: expected a list, got %s; %s", name, n.describe(), w.hint)
		return
	}
	var all []string
	one := as(w.form, func(all *[]string, v string) { *all = append(*all, v) })
	for _, item := range items {
		before := len(all)
		one.read(l, name, item, &all)
		if len(all) > before && slices.Contains(all[:before], all[before]) {
			all = all[:before]
		}
	}
	w.put(t, all)
}

func (w words[T]) schema() schema {
	list := schema{"type": "array", "items": w.form.schema()}
	if w.single {
		return schema{"anyOf": []any{w.form.schema(), list}}
	}
	return list
}
