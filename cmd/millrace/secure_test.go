package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/protocols/mqtt/mqtttest"
)

// TestSecureUplink goes over TLS with a client certificate, a user and a
// password from a file; then the password is wrong, which is a state, and
// the secret is seen nowhere.
func TestSecureUplink(t *testing.T) {
	t.Parallel()
	const secret = "hunter2-öß"
	plc, pki := newCounterPLC(t), mqtttest.NewPKI(t)
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{
		PKI: pki, ClientCerts: true, Users: map[string]string{"gw1": secret},
	})
	file := filepath.Join(t.TempDir(), "mqtt-password")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAgent(t, fmt.Sprintf(`
gateway: {id: gw-1, group: plant}
console: {listen: "CONSOLE"}
uplinks:
  - name: platform
    broker: %s
    username: gw1
    password: ${file:%s}
    tls: {ca: %s, cert: %s, key: %s}
devices:
  - id: plc-1
    driver: modbus
    endpoint: tcp://%s
    interval: 20ms
    tags: [{name: count, address: "holding:0", type: uint64}]
`, broker.URL("mqtts"), file, pki.CA, pki.ClientCert, pki.ClientKey, plc.Addr()))
	delivered := func() bool {
		text, _ := a.get("/metrics")
		return strings.Contains(text, `millrace_uplink_up{uplink="platform"} 1`) && !strings.Contains(text, `millrace_uplink_batches_total{uplink="platform"} 0`)
	}
	mqtttest.WaitFor(t, "batches over TLS", delivered)
	a.stop()
	if err := os.WriteFile(file, []byte(secret+"x"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.start()
	var status string
	mqtttest.WaitFor(t, "the refusal in words", func() bool {
		status, _ = a.get("/api/status")
		return strings.Contains(status, "password")
	})
	metrics, _ := a.get("/metrics")
	a.stop()
	for where, text := range map[string]string{"/api/status": status, "/metrics": metrics, "the log": a.output.String()} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("the password is in %s:\n%s", where, text)
		}
	}
}
