package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"millrace/protocols"
	"millrace/protocols/mqtt"
	"millrace/protocols/mqtt/mqtttest"
)

// messageSchemas are those of docs/platform/schemas, by the last level of the
// topic that they are of.
var messageSchemas = sync.OnceValues(func() (map[string]*jsonschema.Schema, error) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	files, err := filepath.Glob("../../docs/platform/schemas/*.json")
	if err != nil {
		return nil, err
	}
	all := map[string]*jsonschema.Schema{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if err := c.AddResource("https://millrace.invalid/schemas/"+filepath.Base(file), doc); err != nil {
			return nil, err
		}
	}
	for _, file := range files {
		name := filepath.Base(file)
		s, err := c.Compile("https://millrace.invalid/schemas/" + name)
		if err != nil {
			return nil, err
		}
		all[strings.TrimSuffix(name, ".json")] = s
	}
	return all, nil
})

// conforms holds a message against the schema of its topic's last level.
func conforms(t *testing.T, kind string, body []byte) error {
	t.Helper()
	schemas, err := messageSchemas()
	if err != nil {
		t.Fatal(err)
	}
	if kind == "daily" {
		kind = "connectivity"
	}
	s := schemas[kind]
	if s == nil {
		return fmt.Errorf("there is no schema for %s", kind)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return s.Validate(doc)
}

// TestMessageSchemas holds what a real agent publishes against the schemas:
// over a kill, a stop, a device that is gone and values of all kinds.
func TestMessageSchemas(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	var mu sync.Mutex
	seen := map[string]int{}
	mqtttest.Listen(t, mqtttest.ReceiverOptions{Broker: broker.URL("mqtt")}, func(topic string, body []byte) {
		mu.Lock()
		defer mu.Unlock()
		kind := topic[strings.LastIndex(topic, "/")+1:]
		if len(body) == 0 {
			return // a retained message is cleared
		}
		if err := conforms(t, kind, body); err != nil {
			t.Errorf("%s: %v\n%s", topic, err, body)
		}
		for _, part := range []string{`"online":true`, "connection_lost", `"stopped"`, "previous", `"historical":true`, `"bad"`, `"uncertain"`, `"source_ts"`, `"clock"`, "offline"} {
			if bytes.Contains(body, []byte(part)) {
				seen[part]++
			}
		}
		seen[kind]++
	})
	plc := newCounterPLC(t)
	a := newAgent(t, configFor("1s", map[string]string{"platform": broker.URL("mqtt")}, plc))
	count := func(what string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return seen[what] > 0
		}
	}
	mqtttest.WaitFor(t, "data", count("data"))
	a.kill()
	mqtttest.WaitFor(t, "the last will", count("connection_lost"))
	a.start()
	mqtttest.WaitFor(t, "how the last run ended", count("previous"))
	_ = plc.Close()
	mqtttest.WaitFor(t, "bad values", count(`"bad"`))
	mqtttest.WaitFor(t, "the device to be offline", count("offline"))
	// They come with the first writing of the ledger, or a minute later.
	for start := time.Now(); !count("connectivity")(); <-time.After(10 * time.Millisecond) {
		if time.Since(start) > 90*time.Second {
			t.Fatal("no connectivity figures were published")
		}
	}
	a.stop()
	mqtttest.WaitFor(t, "the farewell", count(`"stopped"`))

	// Values of all kinds, and what an agent seldom says.
	s, batches := allKinds()
	s.Device = "press-1"
	u, err := mqtt.New(mqtt.Options{
		Name: "all", Broker: broker.URL("mqtt"), Topic: "millrace", Group: "plant", Gateway: "gw-2", Version: "v0",
		Schema: func(uint64) (*protocols.Schema, error) { return s, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Disconnect()
	if _, err := u.Connect(t.Context(), func(uint64) {}); err != nil {
		t.Fatal(err)
	}
	const stream = "01M848G32JCB26T4ESY0B80FMQ"
	for i := range batches {
		r := mqtt.Record{Stream: stream, Seq: uint64(i + 1), Time: time.Now().UnixMilli() - int64(i)*60_000, Readings: 1, Data: protocols.EncodeBatch(nil, &batches[i]), ClockUnset: i == 0}
		if err := u.Send(t.Context(), uint64(i+1), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.SendGap(t.Context(), 9, mqtt.Gap{Stream: stream, From: 3, To: 9, Readings: 70, Reason: "buffer_full", Oldest: 1, Newest: 2}); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"gap", "state", "status", `"online":true`, `"historical":true`, `"uncertain"`, `"source_ts"`, `"clock"`} {
		mqtttest.WaitFor(t, what, count(what))
	}
}

// Messages with a mistake do not conform.
func TestMessageMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ kind, body string }{
		{"data", `{"v":2,"gateway":"g","device":"d","stream":"01M848G32JCB26T4ESY0B80FMQ","seq":1,"ts":1,"values":{}}`},
		{"data", `{"v":1,"gateway":"g","device":"d","stream":"01M848G32JCB26T4ESY0B80FMQ","seq":0,"ts":1,"values":{}}`},
		{"data", `{"v":1,"gateway":"g","device":"d","stream":"short","seq":1,"ts":1,"values":{}}`},
		{"data", `{"v":1,"gateway":"g","device":"d","stream":"01M848G32JCB26T4ESY0B80FMQ","seq":1,"ts":1}`},
		{"data", `{"v":1,"gateway":"g","device":"d","stream":"01M848G32JCB26T4ESY0B80FMQ","seq":1,"ts":1,"values":{"a":null}}`},
		{"data", `{"v":1,"gateway":"g","device":"d","stream":"01M848G32JCB26T4ESY0B80FMQ","seq":1,"ts":1,"values":{},"bad":{"a":"In Words"}}`},
		{"data", `{"v":1,"gateway":"g","device":"d","stream":"01M848G32JCB26T4ESY0B80FMQ","seq":1,"ts":1,"values":{},"historical":false}`},
		{"state", `{"v":1,"gateway":"g","device":"d","state":"up","since":1,"reason":""}`},
		{"state", `{"v":1,"gateway":"g","device":"d","state":"offline","since":1,"reason":""}`},
		{"status", `{"v":1,"gateway":"g","online":true}`},
		{"status", `{"v":1,"gateway":"g","online":false}`},
		{"status", `{"v":1,"gateway":"g","online":false,"reason":"tired"}`},
		{"gap", `{"v":1,"gateway":"g","stream":"01M848G32JCB26T4ESY0B80FMQ","gap":{"from":1,"to":2,"readings":1,"reason":"nobody knows","oldest":0,"newest":0}}`},
		{"connectivity", `{"v":1,"gateway":"g","group":"p","ts":1}`},
	} {
		if conforms(t, c.kind, []byte(c.body)) == nil {
			t.Errorf("%s conforms: %s", c.kind, c.body)
		}
	}
}

// TestDocumentedMessages: the messages that the documents show conform.
func TestDocumentedMessages(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/platform.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, m := range regexp.MustCompile("(?s)```json\n(.*?)```|`(\\{\"v\":1.*?\\})` \\|").FindAllStringSubmatch(string(text), -1) {
		body := strings.ReplaceAll(m[1]+m[2], `"01M848…"`, `"01M848G32JCB26T4ESY0B80FMQ"`)
		kind := "data"
		for part, k := range map[string]string{`"gap"`: "gap", `"online"`: "status", `"state"`: "state", `"indicators"`: "connectivity"} {
			if strings.Contains(body, part) {
				kind = k
			}
		}
		shown++
		if err := conforms(t, kind, []byte(body)); err != nil {
			t.Errorf("%v\n%s", err, body)
		}
	}
	if shown < 6 {
		t.Errorf("only %d messages are shown", shown)
	}
}

// TestAsyncAPI: the description has the topics of the contract, its references
// lead somewhere, and its examples conform.
func TestAsyncAPI(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/platform/asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	if doc["asyncapi"] != "3.0.0" {
		t.Errorf("version %v", doc["asyncapi"])
	}
	follow(t, doc, doc)
	channels, _ := doc["channels"].(map[string]any)
	for kind, address := range map[string]string{
		"data": "{topic}/{group}/{gateway}/{device}/data", "state": "{topic}/{group}/{gateway}/{device}/state",
		"status": "{topic}/{group}/{gateway}/status", "gap": "{topic}/{group}/{gateway}/gap",
		"connectivity": "{topic}/{group}/{gateway}/connectivity", "daily": "{topic}/{group}/{gateway}/connectivity/daily",
	} {
		c, _ := channels[kind].(map[string]any)
		if c["address"] != address {
			t.Errorf("%s is at %v", kind, c["address"])
		}
		parameters, _ := c["parameters"].(map[string]any)
		for _, name := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(address, -1) {
			if parameters[name[1]] == nil {
				t.Errorf("%s does not describe {%s}", kind, name[1])
			}
		}
	}
	components, _ := doc["components"].(map[string]any)
	messages, _ := components["messages"].(map[string]any)
	for name, kind := range map[string]string{"batch": "data", "state": "state", "status": "status", "gap": "gap", "connectivity": "connectivity"} {
		m, _ := messages[name].(map[string]any)
		examples, _ := m["examples"].([]any)
		if len(examples) == 0 {
			t.Errorf("%s has no example", name)
		}
		for _, e := range examples {
			payload, _ := e.(map[string]any)
			body, err := json.Marshal(payload["payload"])
			if err != nil {
				t.Fatal(err)
			}
			if err := conforms(t, kind, body); err != nil {
				t.Errorf("%v\n%s", err, body)
			}
		}
	}
}

// follow wants every $ref below v to lead to something.
func follow(t *testing.T, root map[string]any, v any) {
	t.Helper()
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			follow(t, root, e)
		}
	case map[string]any:
		for key, e := range v {
			ref, is := e.(string)
			if key != "$ref" || !is {
				follow(t, root, e)
				continue
			}
			if file, local := strings.CutPrefix(ref, "#/"); !local {
				if _, err := os.Stat(filepath.Join("..", "..", "docs", "platform", file)); err != nil {
					t.Error(err)
				}
				continue
			} else if lookUp(root, strings.Split(file, "/")) == nil {
				t.Errorf("%s leads nowhere", ref)
			}
		}
	}
}

func lookUp(v any, path []string) any {
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}
