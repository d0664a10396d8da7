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
