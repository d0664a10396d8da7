package configs

import (
	"slices"
	"strconv"
	"strings"

	"millrace/protocols"
)

// Equipment is one machine of the site: a row of the equipment ledger, or a
// device where there is none.
type Equipment struct {
	Asset      string // its number, unique in the ledger
	Name       string
	Workshop   string
	Process    string
	Key        bool // key equipment (关键设备)
	KeyProcess bool // its process is a key process (关键工序)
	// Digital says that it has a digital interface and can join a network, or was
	// fitted with a PLC or sensors (数字化设备).
	Digital bool
	Maker   string
	Model   string
	Serial  string
	Devices []string // that connect it, by their ids; none: it is not connected
	Source  protocols.Position
}

// EquipmentColumn is a column of the equipment ledger.
type EquipmentColumn struct {
	Names    []string // that it may have: the first is the one in English, the second in Chinese
	Doc      [2]string
	Required bool

	put func(e *Equipment, cell string) (ok bool)
}

// EquipmentColumns returns the columns of an equipment ledger. Other columns
// may stand beside them, and are left alone.
func EquipmentColumns() []EquipmentColumn {
	text := func(at func(e *Equipment) *string) func(*Equipment, string) bool {
		return func(e *Equipment, cell string) bool {
			*at(e) = cell
			return true
		}
	}
	truth := func(at func(e *Equipment) *bool) func(*Equipment, string) bool {
		return func(e *Equipment, cell string) bool {
			v, ok := yesNo(cell)
			*at(e) = v
			return ok
		}
	}
	return []EquipmentColumn{
		{
			Names: []string{"asset", "资产编号", "asset number", "asset no", "asset id", "设备编号", "编号", "固定资产编号"}, Required: true,
			Doc: [2]string{"The machine's number, unique.", "设备的唯一编号。"},
			put: text(func(e *Equipment) *string { return &e.Asset }),
		},
		{
			Names: []string{"name", "设备名称", "equipment", "equipment name", "machine", "名称"}, Required: true,
			Doc: [2]string{"What people call it.", "设备的名称。"},
			put: text(func(e *Equipment) *string { return &e.Name }),
		},
		{
			Names: []string{"workshop", "车间", "shop", "department", "所在车间", "使用部门", "部门"},
			Doc:   [2]string{"Where it stands.", "设备所在的车间。"},
			put:   text(func(e *Equipment) *string { return &e.Workshop }),
		},
		{
			Names: []string{"process", "工序", "production process", "所属工序", "工序名称"},
			Doc:   [2]string{"The process it belongs to.", "设备所属的工序。"},
			put:   text(func(e *Equipment) *string { return &e.Process }),
		},
		{
			Names: []string{"key equipment", "关键设备", "key", "critical", "是否关键设备", "关键"},
			Doc:   [2]string{"yes: key equipment.", "是：关键设备。"},
			put:   truth(func(e *Equipment) *bool { return &e.Key }),
		},
		{
			Names: []string{"key process", "关键工序", "是否关键工序"},
			Doc:   [2]string{"yes: its process is a key process.", "是：所属工序为关键工序。"},
			put:   truth(func(e *Equipment) *bool { return &e.KeyProcess }),
		},
		{
			Names: []string{"digital", "数字化设备", "digital equipment", "数字化", "是否数字化", "是否数字化设备"},
			Doc: [2]string{
				"yes: it has a digital interface and can join a network, or was fitted with a PLC or sensors. Left empty, a machine with devices counts as digital.",
				"是：具有数字接口、能够联网，或加装了 PLC、传感器。留空时，填写了采集设备的按数字化设备计。",
			},
			put: truth(func(e *Equipment) *bool { return &e.Digital }),
		},
		{
			Names: []string{"maker", "制造商", "make", "manufacturer", "brand", "生产厂家", "厂家", "品牌", "制造厂"},
			Doc:   [2]string{"Who made it.", "设备的制造商。"},
			put:   text(func(e *Equipment) *string { return &e.Maker }),
		},
		{
			Names: []string{"model", "型号", "type", "规格型号", "设备型号"},
			Doc:   [2]string{"Its model.", "设备的型号。"},
			put:   text(func(e *Equipment) *string { return &e.Model }),
		},
		{
			Names: []string{"serial", "出厂编号", "serial number", "serial no", "序列号"},
			Doc:   [2]string{"Its serial number.", "设备的出厂编号。"},
			put:   text(func(e *Equipment) *string { return &e.Serial }),
		},
		{
			Names: []string{"devices", "采集设备", "device", "device id", "device ids", "设备id", "采集设备id", "网关设备"},
			Doc: [2]string{
				"The ids of the devices in the gateway's configuration that connect it, separated by commas; empty: it is not connected.",
				"网关配置中连接该设备的 device id，多个用逗号分隔；留空表示未联网。",
			},
			put: func(e *Equipment, cell string) bool {
				e.Devices = strings.FieldsFunc(cell, func(r rune) bool { return strings.ContainsRune(",;，；、/| \t\r\n", r) })
				return true
			},
		},
	}
}

// yesNo reads what people write for yes and no.
func yesNo(cell string) (yes, ok bool) {
	switch strings.ToLower(cell) {
	case "是", "yes", "y", "true", "1", "√", "✓", "✔", "有":
		return true, true
	case "", "否", "no", "n", "false", "0", "×", "✗", "✘", "无", "-", "/":
		return false, true
	}
	return false, false
}

// plainColumn levels how the name of a column is written.
func plainColumn(s string) string {
	return strings.NewReplacer(" ", "", "_", "", "-", "", "\n", "", "(", "", ")", "", "（", "", "）", "", "*", "", "？", "", "?", "", "：", "", ":", "", ".", "", "№", "no").Replace(strings.ToLower(strings.TrimSpace(s)))
}

// readEquipment reads the equipment ledger, or makes one of the devices.
func (l *loader) readEquipment(d *draft) {
	if d.ledger == nil {
		d.Equipment = equipmentOf(d)
		return
	}
	if d.ledger.bad || !l.isTable(d.ledger, "equipment", "") {
		return
	}
	d.EquipmentLedger = l.abs(d.ledger.text)
	r := equipmentReader{l: l, d: d, columns: EquipmentColumns(), assets: map[string]int{}, devices: map[string]bool{}}
	for _, dev := range d.devices {
		r.devices[dev.ID] = true
		r.ids = append(r.ids, dev.ID)
	}
	file, ok := l.tableFile(d.ledger, "equipment", "equipment ledger", func(file string) func(int, []string) bool {
		r.file = file
		return r.record
	})
	if ok && !r.refused && len(d.Equipment) == 0 {
		l.problem(protocols.Position{File: file}, "the equipment ledger is empty: its first row names the columns, asset (资产编号) and name (设备名称) at the least, and each other row is a machine; millrace report --template writes an empty one")
	}
}

// equipmentOf makes the ledger of a site that has none: each device is a
// machine.
func equipmentOf(d *draft) []Equipment {
	var all []Equipment
	for _, dev := range d.devices {
		label := func(names ...string) string {
			for _, n := range names {
				if v := dev.Labels[n]; v != "" {
					return v
				}
			}
			return ""
		}
		e := Equipment{
			Asset: label("asset"), Name: label("name"), Workshop: label("workshop", "line"), Process: label("process"),
			Key: dev.Critical, Digital: true, Maker: label("maker"), Model: label("model"), Serial: label("serial"), Devices: []string{dev.ID},
		}
		e.KeyProcess, _ = yesNo(label("key_process"))
		if e.Name == "" {
			e.Name = dev.ID
		}
		if e.Asset == "" || slices.ContainsFunc(all, func(o Equipment) bool { return o.Asset == e.Asset }) {
			e.Asset = dev.ID
		}
		all = append(all, e)
	}
	return all
}

// equipmentReader is one equipment ledger while it is being read.
type equipmentReader struct {
	l       *loader
	d       *draft
	file    string
	row     int
	columns []EquipmentColumn
	of      []int    // the column of each cell; -1: not one of ours
	names   []string // of the cells' columns, as they are written
	refused bool     // the header makes no sense
	assets  map[string]int
	devices map[string]bool
	ids     []string
}

func (r *equipmentReader) problem(column, format string, args ...any) {
	r.l.problem(protocols.Position{File: r.file, Line: r.row, Name: column}, format, args...)
}

func (r *equipmentReader) record(row int, cells []string) bool {
	r.row = row
	if r.of == nil {
		r.refused = !r.header(cells)
		return !r.refused
	}
	r.machine(cells)
	return true
}

// header finds the columns. A ledger may begin with rows of a title: those
// are passed over until one names two columns.
func (r *equipmentReader) header(cells []string) bool {
	of := make([]int, len(cells))
	found := map[int]string{}
	names := make([]string, len(cells))
	ok := true
	for i, cell := range cells {
		of[i], names[i] = -1, strings.Join(strings.Fields(cell), " ")
		for c := range r.columns {
			if !slices.ContainsFunc(r.columns[c].Names, func(n string) bool { return plainColumn(n) == plainColumn(cell) }) {
				continue
			}
			if other, twice := found[c]; twice {
				r.problem(names[i], "this column means the same as %q: remove one of them", other)
				ok = false
				break
			}
			found[c], of[i] = names[i], c
			break
		}
	}
	if len(found) < 2 && r.row < titleRows {
		return true
	}
	r.of, r.names = of, names
	for c := range r.columns {
		if _, there := found[c]; r.columns[c].Required && !there {
			ok = false
			r.problem("", "the column %q (%s) is missing%s: name it in this row, which names the columns; millrace report --template writes an empty ledger",
				r.columns[c].Names[0], r.columns[c].Names[1], r.meant(c))
		}
	}
	r.misspelt(found)
	return ok
}

// titleRows is how many rows may stand above the one that names the columns.
const titleRows = 5

// meant returns a suggestion where some column is nearly a name of c.
func (r *equipmentReader) meant(c int) string {
	for i, name := range r.names {
		if r.of[i] < 0 && nearest(name, r.columns[c].Names) != "" {
			return "; is it " + strconv.Quote(name) + "?"
		}
	}
	return ""
}

// misspelt reports columns that are nearly one of ours, which would be left
// out in silence. Those of Chinese are too short to be near by chance.
func (r *equipmentReader) misspelt(found map[int]string) {
	for i, name := range r.names {
		if r.of[i] >= 0 || len(name) < 4 || name[0] >= 0x80 {
			continue
		}
		for c := range r.columns {
			if _, there := found[c]; there || r.columns[c].Required {
				continue
			}
			if n := nearest(name, r.columns[c].Names); n != "" {
				r.problem(name, "there is no such column; did you mean %q?", n)
				break
			}
		}
	}
}

func (r *equipmentReader) machine(cells []string) {
	e := Equipment{Source: protocols.Position{File: r.file, Line: r.row}}
	digital, some := "", false
	for i, cell := range cells {
		cell = strings.TrimSpace(cell)
		if i >= len(r.of) || r.of[i] < 0 || cell == "" {
			continue
		}
		some = true
		c := &r.columns[r.of[i]]
		if !c.put(&e, cell) {
			r.problem(r.names[i], "expected yes or no (是 or 否), got %q", cell)
		}
		if c.Names[0] == "digital" {
			digital = cell
		}
	}
	if !some {
		return
	}
	r.check(&e, digital)
	r.d.Equipment = append(r.d.Equipment, e)
}

// check checks what concerns several cells, or several rows.
func (r *equipmentReader) check(e *Equipment, digital string) {
	if e.Asset == "" {
		r.problem(r.columnName("asset"), "the machine has no number: give each its own")
	} else if first, twice := r.assets[e.Asset]; twice {
		r.problem(r.columnName("asset"), "%q is the number of the machine in row %d, too: give each its own", e.Asset, first)
	}
	r.assets[e.Asset] = r.row
	if e.Name == "" {
		r.problem(r.columnName("name"), "the machine has no name")
	}
	for i, id := range e.Devices {
		switch {
		case slices.Contains(e.Devices[:i], id):
			r.problem(r.columnName("devices"), "%q stands there twice", id)
		case !r.devices[id]:
			r.problem(r.columnName("devices"), "there is no device %q in the configuration%s", id, didYouMean(id, r.ids))
		}
	}
	if len(e.Devices) == 0 {
		return
	}
	if digital == "" {
		e.Digital = true
	} else if !e.Digital {
		r.problem(r.columnName("digital"), "the machine is not digital, but device %q connects it: empty one of the two cells, or write yes (是)", e.Devices[0])
	}
}

// columnName returns how the file calls one of our columns.
func (r *equipmentReader) columnName(name string) string {
	for i, c := range r.of {
		if c >= 0 && r.columns[c].Names[0] == name {
			return r.names[i]
		}
	}
	return name
}
