package configs

import "time"

// draft is a configuration while it is being read: the values, and the nodes
// that they came from, so that later checks can point at them.
type draft struct {
	Config

	node         *node
	uplinks      []*uplinkDraft
	devices      []*deviceDraft
	ledger       *node // of equipment; nil: not given
	connectivity connectivityDraft
}

type uplinkDraft struct {
	Uplink

	node *node
}

// rootTable is the whole file.
func rootTable() table[draft] {
	return table[draft]{where: "the top level", keys: []key[draft]{
		{
			name: "gateway", required: true,
			doc: "Who this agent is.",
			val: object[draft, Gateway]{
				table: gatewayTable(),
				hint:  "write gateway: {id: gw-1}, or id under it, indented by two spaces",
				at:    func(d *draft, _ *node) *Gateway { return &d.Gateway },
			},
		},
		{
			name: "buffer",
			doc:  "Where readings wait while an uplink is down, and how much may wait.",
			val: object[draft, Buffer]{
				table: bufferTable(),
				hint:  "write buffer: {max_size: 1GiB}",
				at:    func(d *draft, _ *node) *Buffer { return &d.Buffer },
			},
		},
		{
			name: "uplinks",
			doc:  "The MQTT brokers that get the readings. Each one has its own place in the buffer.",
			val: list[draft, uplinkDraft]{
				table: uplinkTable(),
				hint:  "each uplink is an entry: - name: platform",
				add: func(d *draft, n *node) *uplinkDraft {
					u := &uplinkDraft{node: n}
					d.uplinks = append(d.uplinks, u)
					return u
				},
			},
		},
		{
			name: "console",
			doc:  "The status page, metrics and health checks.",
			val: object[draft, Console]{
				table: consoleTable(),
				hint:  "write console: {listen: 127.0.0.1:8080}",
				at:    func(d *draft, _ *node) *Console { return &d.Console },
			},
		},
		{
			name: "devices", required: true,
			doc: "The equipment that is read, one entry for each PLC, meter or machine.",
			val: list[draft, deviceDraft]{
				table:  deviceTable(),
				hint:   "each device is an entry: - id: press-1",
				driver: driverOf,
				add: func(d *draft, n *node) *deviceDraft {
					dev := &deviceDraft{node: n}
					d.devices = append(d.devices, dev)
					return dev
				},
			},
		},
		{
			name: "equipment",
			doc:  "The ledger of all production equipment of the site, connected or not: a .csv or .xlsx file. Left out: the devices are the equipment.",
			val:  ledgerValue{},
		},
		{
			name: "connectivity",
			doc:  "How the connectivity figures are counted, and what counts as networked.",
			val: object[draft, connectivityDraft]{
				table: connectivityTable(),
				hint:  "write connectivity: {timezone: Asia/Shanghai}",
				at: func(d *draft, n *node) *connectivityDraft {
					d.connectivity.node = n
					return &d.connectivity
				},
			},
		},
	}}
}

func gatewayTable() table[Gateway] {
	return table[Gateway]{where: "gateway", keys: []key[Gateway]{
		{
			name: "id", required: true,
			doc: "The gateway's name, unique on the platform. Letters, digits, '-', '_' and '.'; 1 to 64.",
			val: as(id(), func(g *Gateway, v string) { g.ID = v }),
		},
		{
			name: "group", def: "default",
			doc: "The namespace on the platform: the topic level above the gateway's id.",
			val: as(name("a name", 64, "/+#$"), func(g *Gateway, v string) { g.Group = v }),
		},
		{
			name: "labels",
			doc:  "Any names and texts. They go out with the connectivity data.",
			val:  labels[Gateway]{put: func(g *Gateway, m map[string]string) { g.Labels = m }},
		},
	}}
}

func bufferTable() table[Buffer] {
	return table[Buffer]{where: "buffer", keys: []key[Buffer]{
		{
			// Beside the configuration, so that one directory is the whole agent.
			name: "path", def: "data/buffer",
			doc: "The buffer's directory, relative to this file.",
			val: as(filled("a directory"), func(b *Buffer, v string) { b.Path = v }),
		},
		{
			// 1 GiB holds about 10 days of 1,000 readings a second at about
			// 1.2 bytes a reading on the disk, and fits beside the system on
			// an 8 GB card. The least is one segment and its successor.
			name: "max_size", def: "1GiB",
			doc: "The size of all the buffer's files. At the limit the oldest batches go, counted and announced.",
			val: as(size(1<<20, 64<<40), func(b *Buffer, v int64) { b.MaxSize = v }),
		},
		{
			// 30 days: longer than any holiday shutdown of a site's network.
			name: "max_age", def: "720h",
			doc: "How long a batch may wait. 0: no limit.",
			val: as(duration(time.Minute, 10*365*24*time.Hour, true), func(b *Buffer, v time.Duration) { b.MaxAge = v }),
		},
		{
			// One commit is two fsyncs of 5 to 20 ms on eMMC: at 1 s that is at
			// most 4 % of the disk's time, and a second can be lost.
			name: "commit_interval", def: "1s",
			doc: "How much can be lost to a power cut, at most. 0s: a batch is on disk before it is sent.",
			val: as(duration(10*time.Millisecond, 10*time.Minute, true), func(b *Buffer, v time.Duration) { b.CommitInterval = v }),
		},
	}}
}

func uplinkTable() table[uplinkDraft] {
	return table[uplinkDraft]{where: "an uplink", keys: append([]key[uplinkDraft]{
		{
			name: "name", required: true,
			doc: "The uplink's name, unique in this file. Letters, digits, '-', '_' and '.'; 1 to 64.",
			val: as(id(), func(u *uplinkDraft, v string) { u.Name = v }),
		},
		{
			name: "broker", required: true,
			doc: "The broker's address, such as mqtt://192.0.2.1:1883 or mqtts://broker.example.com. Schemes: mqtt, mqtts, ws, wss; ports left out: 1883, 8883, 80, 443.",
			val: as(brokerURL(), func(u *uplinkDraft, v string) { u.Broker = v }),
		},
		{
			name: "fallback",
			doc:  "Further brokers, one or a list, with the same user and certificates: they are used in their order while those before them cannot be.",
			val: words[uplinkDraft]{
				form: brokerURL(), hint: "write fallback: mqtt://192.0.2.2:1883", single: true,
				put: func(u *uplinkDraft, v []string) { u.Fallback = v },
			},
		},
		{
			name: "client_id",
			doc:  "The MQTT client identifier. Default: gateway.id.",
			val:  as(numbered("a client identifier"), func(u *uplinkDraft, v string) { u.ClientID = v }),
		},
		{
			name: "username",
			doc:  "The MQTT user name.",
			val:  as(numbered("a user name"), func(u *uplinkDraft, v string) { u.Username = v }),
		},
		{
			name: "password",
			doc:  "The MQTT password; better as ${file:PATH} or ${env:NAME} than in this file.",
			val:  as(anyText(), func(u *uplinkDraft, v string) { u.Password = Secret(v) }),
		},
		{
			name: "tls",
			doc:  "Certificates for mqtts and wss.",
			val: object[uplinkDraft, TLS]{
				table: tlsTable(),
				hint:  "write tls: {ca: ca.pem}",
				at:    func(u *uplinkDraft, _ *node) *TLS { return &u.TLS },
			},
		},
	}, uplinkDataKeys()...)}
}

// uplinkDataKeys say what an uplink sends, and how.
func uplinkDataKeys() []key[uplinkDraft] {
	return []key[uplinkDraft]{
		{
			name: "format", def: "json",
			doc: "The payloads' format: json, or sparkplug (Sparkplug B 3.0).",
			val: as(choice(nil, FormatJSON, FormatSparkplug), func(u *uplinkDraft, v string) { u.Format = v }),
		},
		{
			name: "topic", def: "millrace",
			doc: "The first level (or levels) of all topics. For format json; those of sparkplug begin with spBv1.0.",
			val: as(topic(), func(u *uplinkDraft, v string) { u.Topic = v }),
		},
		{
			// 64 messages of some kB fill a link with 100 ms round trips at
			// 640 messages a second; more only costs memory at both ends.
			name: "max_inflight", def: "64",
			doc: "How many messages may wait for the broker's acknowledgement.",
			val: as(integer(1, 1000), func(u *uplinkDraft, v int) { u.MaxInflight = v }),
		},
		{
			name: "catch_up", def: "in_order",
			doc: "What is sent first after an outage. in_order: the oldest batch. live_first: new batches at once, and those that wait beside them.",
			val: as(choice(nil, InOrder, LiveFirst), func(u *uplinkDraft, v string) { u.CatchUp = v }),
		},
		{
			name: "catch_up_rate",
			doc:  "How fast batches that waited longer than 10 s are sent: 200/s is batches per second, 25% a share of the link. With catch_up: in_order, new ones wait behind them. Default: as fast as the link or, with live_first, the live batches allow.",
			val:  as(rate(), func(u *uplinkDraft, v Rate) { u.CatchUpRate = v }),
		},
		{
			name: "primary_host",
			doc:  "For format sparkplug: the id of the host application without which nothing is sent. While it is offline, the data waits in the buffer. Default: none.",
			val:  as(name("a host's id", 128, "/+#"), func(u *uplinkDraft, v string) { u.PrimaryHost = v }),
		},
		{
			name: "devices",
			doc:  "The devices whose readings and states go out: ids, or globs such as press-*. Default: all.",
			val: words[uplinkDraft]{
				form: name("a device's id or a glob", 256, ""), hint: "write devices: [press-*]",
				put: func(u *uplinkDraft, v []string) { u.Devices = v },
			},
		},
		{
			name: "tags",
			doc:  "The tags that go out: names, DEVICE/NAME, or globs of one of them, such as temp* or press-1/*. Default: all.",
			val: words[uplinkDraft]{
				form: name("a tag's name or a glob", 256, ""), hint: "write tags: [temp*]",
				put: func(u *uplinkDraft, v []string) { u.Tags = v },
			},
		},
	}
}

func tlsTable() table[TLS] {
	return table[TLS]{where: "tls", keys: []key[TLS]{
		{
			name: "ca",
			doc:  "PEM file of the authorities that may sign the broker's certificate, relative to this file. Left out: the system's.",
			val:  as(filled("a file"), func(t *TLS, v string) { t.CA = v }),
		},
		{
			name: "cert",
			doc:  "PEM file of the gateway's own certificate, relative to this file.",
			val:  as(filled("a file"), func(t *TLS, v string) { t.Cert = v }),
		},
		{
			name: "key",
			doc:  "PEM file of the key of cert, relative to this file.",
			val:  as(filled("a file"), func(t *TLS, v string) { t.Key = v }),
		},
		{
			name: "server_name",
			doc:  "The name in the broker's certificate, if it is not the host in broker.",
			val:  as(filled("a host name"), func(t *TLS, v string) { t.ServerName = v }),
		},
	}}
}

func consoleTable() table[Console] {
	return table[Console]{where: "console", keys: []key[Console]{
		{
			// Loopback: the page has no users and passwords, so who may see it
			// is decided by who opens it to the network.
			name: "listen", def: "127.0.0.1:8080",
			doc: "Address and port of the page, /metrics, /healthz and /readyz. \"\": none.",
			val: as(listenAddress(), func(c *Console, v string) { c.Listen = v }),
		},
	}}
}
