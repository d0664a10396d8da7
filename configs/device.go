package configs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"millrace/protocols"
)

// LoadDevice reads one device of the configuration file at path, for looking
// around at it before it has a tag map: what the file says of tags is not
// read, and each device has one tag that stands for them. The error is
// always Problems.
func LoadDevice(path, id string, drivers map[string]Checker) (*Config, *protocols.Device, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		_, err := Load(path, drivers) // it has the words for that
		return nil, nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, nil, Problems{{Pos: protocols.Position{File: path}, Text: err.Error()}}
	}
	root := rootTable()
	l := &loader{name: path, dir: dir, drivers: drivers, tags: tagTable(), levels: levels()}
	d := &draft{Config: Config{Path: path, Dir: dir}}
	if d.node = l.parseYAML(data); d.node != nil && !d.node.bad {
		withoutTags(d.node)
		l.read(&root, d)
	}
	if len(l.problems) > 0 {
		return nil, nil, l.problems.sorted(path)
	}
	cfg := d.config()
	var ids []string
	for _, dev := range cfg.Devices {
		if dev.ID == id {
			return cfg, dev, nil
		}
		ids = append(ids, dev.ID)
	}
	suggestion := didYouMean(id, ids)
	if suggestion == "" {
		suggestion = "; there are: " + strings.Join(ids, ", ")
	}
	return nil, nil, Problems{{Pos: protocols.Position{File: path}, Text: fmt.Sprintf("there is no device %q%s", id, suggestion)}}
}

// withoutTags puts a list of one tag in the place of each device's tags.
func withoutTags(root *node) {
	devices := root.get("devices")
	if devices == nil || devices.kind != listNode {
		return
	}
	for _, dev := range devices.items {
		if dev.kind != mapNode {
			continue
		}
		address := "i=2258" // the server's clock
		if driver := dev.get("driver"); driver != nil && driver.text == modbusDriver {
			address = "holding:0"
		}
		cell := func(name, text string) entry {
			return entry{name: name, pos: dev.pos, value: &node{kind: textNode, text: text, raw: text, pos: dev.pos}}
		}
		tag := &node{kind: mapNode, pos: dev.pos, entries: []entry{cell("name", "x"), cell("address", address)}}
		tags := &node{kind: listNode, pos: dev.pos, items: []*node{tag}}
		dev.entries = slices.DeleteFunc(dev.entries, func(e entry) bool { return e.name == "tags" })
		dev.entries = append(dev.entries, entry{name: "tags", pos: dev.pos, value: tags})
	}
}
