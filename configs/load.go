package configs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"millrace/protocols"
)

// Checker is what a configuration needs of a driver. protocols.Driver has
// it.
type Checker interface {
	// Check finds the mistakes in d that the driver alone can see.
	Check(d *protocols.Device) []*protocols.FieldError
	// BusKey returns what devices must have in common to share a connection.
	BusKey(d *protocols.Device) string
}

// Load reads and checks the configuration file at path and the tag maps that
// it names. drivers are the drivers that a device may name. The error is
// always Problems, with everything that is wrong.
func Load(path string, drivers map[string]Checker) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		text := "the configuration cannot be read: " + plainFileError(err)
		if c := nearFile(path); c != "" {
			text += fmt.Sprintf("; did you mean %q?", filepath.Join(filepath.Dir(path), c))
		}
		return nil, Problems{{Pos: protocols.Position{File: path}, Text: text}}
	}
	return Parse(path, data, filepath.Dir(path), drivers)
}

// Parse is like Load for a file's contents. name is what messages call the
// file; relative paths in it are relative to baseDir.
func Parse(name string, data []byte, baseDir string, drivers map[string]Checker) (*Config, error) {
	dir, err := filepath.Abs(baseDir)
	if err != nil {
		return nil, Problems{{Pos: protocols.Position{File: name}, Text: err.Error()}}
	}
	root := rootTable()
	l := &loader{name: name, dir: dir, drivers: drivers, tags: tagTable(), levels: levels()}
	d := &draft{Config: Config{Path: name, Dir: dir}}
	if d.node = l.parseYAML(data); d.node != nil && !d.node.bad {
		l.read(&root, d)
	}
	if len(l.problems) > 0 {
		return nil, l.problems.sorted(name)
	}
	return d.config(), nil
}

// loader is one load: what it needs, and the problems found so far.
type loader struct {
	name     string // of the YAML file, for messages
	dir      string // absolute
	drivers  map[string]Checker
	tags     table[protocols.Tag]
	levels   []level
	pieces   []piece // all references resolved
	problems Problems
}

// level is the keys of one kind of mapping, for suggestions.
type level struct {
	where string
	names []string
}

func levels() []level {
	root, gateway, buffer, uplink := rootTable(), gatewayTable(), bufferTable(), uplinkTable()
	tls, console, device, tag := tlsTable(), consoleTable(), deviceTable(), tagTable()
	security, auth := securityTable(), authTable()
	connectivity, networked, shift := connectivityTable(), networkedTable(), shiftTable()
	return []level{
		{"the top level", root.names()},
		{gateway.where, gateway.names()},
		{buffer.where, buffer.names()},
		{console.where, console.names()},
		{uplink.where, uplink.names()},
		{device.where, device.names()},
		{tls.where, tls.names()},
		{security.where, security.names()},
		{auth.where, auth.names()},
		{connectivity.where, connectivity.names()},
		{networked.where, networked.names()},
		{shift.where, shift.names()},
		{tag.where, tag.names()},
	}
}

func (l *loader) problem(pos protocols.Position, format string, args ...any) {
	l.problems = append(l.problems, Problem{Pos: pos, Text: fmt.Sprintf(format, args...)})
}

// refuse reports a problem of a scalar and keeps others from adding to it.
func (l *loader) refuse(n *node, format string, args ...any) {
	if !n.bad {
		l.problem(n.pos, format, args...)
	}
	n.bad = true
}

// display returns how messages name a file that the configuration names:
// relative to where the configuration was named from.
func (l *loader) display(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(l.name), path)
}

// read fills d and checks it.
func (l *loader) read(root *table[draft], d *draft) {
	if d.node.kind != mapNode {
		hint := "write keys with values, such as gateway: {id: gw-1}"
		if d.node.kind == textNode && strings.Contains(d.node.raw, ":") {
			hint = "a space must follow the colon"
		}
		l.problem(d.node.pos, "expected keys with values, got %s; %s", d.node.describe(), hint)
		return
	}
	// What is left out altogether has the defaults of its keys.
	empty := &node{kind: mapNode, pos: d.node.pos}
	for i := range root.keys {
		k := &root.keys[i]
		if n := d.node.get(k.name); n == nil && slices.Contains([]string{"buffer", "console", "connectivity"}, k.name) {
			k.val.read(l, k.name, empty, d)
		}
	}
	root.read(l, d.node, d, "")
	l.checkBuffer(d)
	l.checkUplinks(d)
	l.checkDevices(d)
	l.checkFilters(d)
	l.checkConnectivity(d)
}

// config returns what was read.
func (d *draft) config() *Config {
	c := d.Config
	for _, u := range d.uplinks {
		c.Uplinks = append(c.Uplinks, u.Uplink)
	}
	for _, dev := range d.devices {
		c.Devices = append(c.Devices, &dev.Device)
	}
	return &c
}

// nearFile returns the name of a file in the directory of path whose name is
// similar, or an empty text.
func nearFile(path string) string {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return nearest(filepath.Base(path), names)
}
