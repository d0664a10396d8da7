package configs

import (
	"time"
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
			doc: "How messages are signed and encrypted. Write {policy: Basic256Sha256}, or {policy: None} if the server offers nothing else and the network is trusted.",
			val: object[deviceDraft, securityDraft]{
				table: securityTable(),
				hint:  "write security: {policy: Basic256Sha256}, or {policy: None} if the network is trusted",
				at:    func(d *deviceDraft, _ *node) *securityDraft { return &d.security },
			},
		},
		{
			name: "auth", only: opcuaDriver,
			doc: "The user. Left out: anonymous.",
			val: object[deviceDraft, authDraft]{
				table: authTable(),
				hint:  `write auth: {username: NAME, password: "${env:NAME}"}`,
				at:    func(d *deviceDraft, _ *node) *authDraft { return &d.auth },
			},
		},
		{
			name: "trust", def: "pki/trusted", only: opcuaDriver,
			doc: "The directory of the server certificates that are accepted, relative to this file. Unknown ones are refused, and kept in the directory rejected beside it.",
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
	notYet := []string{"auto", "Basic128Rsa15", "Basic256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"}
	return table[securityDraft]{where: "security", keys: []key[securityDraft]{
		{
			name: "policy", required: true,
			doc: "The security policy. None sends everything in clear.",
			val: as(choice(notYet, "Basic256Sha256", "None"), func(s *securityDraft, v string) { s.policy = v }),
		},
		{
			name: "mode",
			doc:  "Whether messages are only signed. Default: SignAndEncrypt; with policy None: None.",
			val:  as(choice(nil, "SignAndEncrypt", "Sign", "None"), func(s *securityDraft, v string) { s.mode = v }),
		},
	}}
}

func authTable() table[authDraft] {
	return table[authDraft]{where: "auth", keys: []key[authDraft]{
		{
			name: "username", required: true,
			doc: "The user name.",
			val: as(numbered("a user name"), func(a *authDraft, v string) { a.username = v }),
		},
		{
			name: "password", required: true,
			doc: "The password; better as ${file:PATH} or ${env:NAME} than in this file.",
			val: as(anyText(), func(a *authDraft, v string) { a.password = v }),
		},
		later[authDraft]("cert"),
		later[authDraft]("key"),
	}}
}
