package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/collector/connectivity"
	"millrace/protocols/modbus/modbustest"
	"millrace/protocols/mqtt/mqtttest"
	"millrace/protocols/opcua/opcuatest/nodeopcua"
)

// TestInventory: what devices say of themselves fills the ledger of the
// equipment where it is empty, and is noted where that says something else; in
// the report of the running agent, of the stopped one, and on the page. A device
// with `identify: false` is not asked.
func TestInventory(t *testing.T) {
	t.Parallel()
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	plcs := make([]*counterPLC, 3)
	for i := range plcs {
		plcs[i] = newCounterPLC(t)
		plcs[i].Unit(1).SetIdentity(&modbustest.Identity{Conformity: 2, Objects: map[byte]string{0: "Acme ", 1: "AC-1", 2: "V1.2", 5: "Drive\x00"}})
	}
	dir := t.TempDir()
	ledger := "asset,name,maker,model,devices\nA-1,press,,,plc-0\nA-2,mill,Other Works,AC-1,plc-1\nA-3,saw,,,plc-2\n"
	if err := os.WriteFile(filepath.Join(dir, "equipment.csv"), []byte(ledger), 0o600); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("gateway: {id: gw-1, group: plant}\nconsole: {listen: \"CONSOLE\"}\nequipment: %s\nuplinks: [{name: platform, broker: %q}]\ndevices:\n",
		filepath.Join(dir, "equipment.csv"), broker.URL("mqtt"))
	for i, p := range plcs {
		config += fmt.Sprintf("  - {id: plc-%d, driver: modbus, endpoint: \"tcp://%s\", interval: 1s, identify: %t, tags: [{name: a, address: \"holding:0\", type: uint32}]}\n", i, p.Addr(), i < 2)
	}
	a := newAgent(t, config)
	said := func() int {
		body, _ := a.get("/api/status")
		return strings.Count(body, `"identity":{"maker":"Acme","model":"Drive","product":"AC-1","version":"V1.2"}`)
	}
	mqtttest.WaitFor(t, "the devices to say who they are", func() bool { return said() == 2 })
	check := func(when string) {
		t.Helper()
		stdout, stderr, code := millrace(t, "report", "-c", a.config, "--period", "today", "--format", "json", "-o", "-")
		var f connectivity.Figures
		if err := json.Unmarshal([]byte(stdout), &f); err != nil || code != exitDone || len(f.Machines) != 3 {
			t.Fatalf("%s: %v\n%s%s", when, err, stdout, stderr)
		}
		one, two, three := f.Machines[0], f.Machines[1], f.Machines[2]
		if one.Maker != "Acme" || one.Model != "Drive" || len(one.Notes) != 0 {
			t.Errorf("%s: %+v", when, one)
		}
		if two.Maker != "Other Works" || two.Model != "AC-1" || len(two.Notes) != 1 || two.Notes[0] != (connectivity.Note{Field: "maker", Ledger: "Other Works", Device: "Acme", By: "plc-1"}) {
			t.Errorf("%s: %+v", when, two)
		}
		if three.Maker != "" || three.Model != "" {
			t.Errorf("%s: %+v", when, three)
		}
		html, _, _ := millrace(t, "report", "-c", a.config, "--period", "today", "--lang", "zh", "-o", "-")
		for _, text := range []string{"Acme Drive", "订货号", "V1.2", "台账为“Other Works”，设备自身上报为“Acme”"} {
			if !strings.Contains(html, text) {
				t.Errorf("%s: the report does not say %s", when, text)
			}
		}
	}
	check("running")
	a.stop()
	check("stopped")
	body := a.output.String()
	if !strings.Contains(body, "the device says who it is") {
		t.Error(body)
	}
}

// TestNameplate: the same through OPC UA, with a server that we did not make.
func TestNameplate(t *testing.T) {
	t.Parallel()
	server, err := nodeopcua.Start(t.TempDir(), 0, "machines")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	for _, line := range []string{"machine Mill M-1", "machine Saw M-2"} {
		if err := server.Command(t.Context(), line); err != nil {
			t.Fatal(err)
		}
	}
	broker := mqtttest.StartMosquitto(t, mqtttest.MosquittoOptions{})
	a := newAgent(t, fmt.Sprintf(`gateway: {id: gw-1, group: plant}
console: {listen: "CONSOLE"}
uplinks: [{name: platform, broker: %q}]
devices:
  - {id: mill, driver: opcua, endpoint: %q, security: {policy: None}, tags: [{name: speed, address: "nsu=%s;s=Mill.Speed"}]}
  - {id: saw, driver: opcua, endpoint: %q, security: {policy: None}, mode: poll, tags: [{name: speed, address: "nsu=%s;s=Saw.Speed"}]}
`, broker.URL("mqtt"), server.Endpoint(), nodeopcua.Namespace, server.Endpoint(), nodeopcua.Namespace))
	for _, serial := range []string{"M-1", "M-2"} {
		mqtttest.WaitFor(t, serial, func() bool {
			body, _ := a.get("/api/status")
			return strings.Contains(body, fmt.Sprintf(`"identity":{"maker":"Acme 机床","model":"M 500","product":"AC-500","serial":%q,"version":"2.1","software":"Server Works UA 4.5.6"}`, serial))
		})
	}
	a.stop()
	stdout, stderr, code := millrace(t, "report", "-c", a.config, "--period", "today", "--format", "csv", "-o", "-")
	if code != exitDone || !strings.Contains(stdout, "Acme 机床") || !strings.Contains(stdout, "M-2") {
		t.Errorf("%s%s", stdout, stderr)
	}
}
