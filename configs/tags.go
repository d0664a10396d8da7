package configs

import "millrace/protocols"

// orderNotGiven marks a tag that has its device's order.
const orderNotGiven = ^protocols.Order(0)

// tagsValue is a device's tags: a list right there, or the path of a tag map.
type tagsValue struct{}

func newTag(pos protocols.Position) protocols.Tag {
	return protocols.Tag{Order: orderNotGiven, Scale: 1, Source: pos}
}

func (tagsValue) read(l *loader, name string, n *node, dev *deviceDraft) {
	switch n.kind {
	case listNode:
		l.inlineTags(n, dev)
	case textNode:
		l.tagFile(n, dev)
	case nullNode, numberNode, boolNode, mapNode:
		l.problem(n.pos, "%s: expected a tag map's path or a list of tags, got %s; write tags: tags/press-1.csv, or each tag as an entry: - {name: temp, address: ADDRESS}",
			name, n.describe())
	}
}

func (l *loader) inlineTags(n *node, dev *deviceDraft) {
	if len(n.items) == 0 {
		l.problem(n.pos, "tags: the list is empty: add a tag, such as - {name: temp, address: ADDRESS}")
	}
	for _, item := range n.items {
		if item.bad {
			continue
		}
		if item.kind != mapNode {
			l.problem(item.pos, "tags: expected a tag, got %s; write - {name: temp, address: ADDRESS}", item.describe())
			continue
		}
		t := newTag(item.pos)
		l.readTag(item, dev, &t)
		dev.tagNodes = append(dev.tagNodes, item)
	}
}

// readTag reads one row or entry and appends it to the device, also if there
// is a problem with it, so that the driver can check the rest.
func (l *loader) readTag(n *node, dev *deviceDraft, t *protocols.Tag) {
	l.tags.read(l, n, t, "")
	dev.noteBadCells(n)
	dev.Tags = append(dev.Tags, *t)
}

// noteBadCells remembers what is wrong or missing in the tag that is about to
// be appended: the driver would only see an empty text there.
func (dev *deviceDraft) noteBadCells(n *node) {
	if n.get("address") == nil {
		dev.noteBadCell("address")
	}
	for _, e := range n.entries {
		if e.value.bad {
			dev.noteBadCell(e.name)
		}
	}
}

func (dev *deviceDraft) noteBadCell(name string) {
	if dev.badCells == nil {
		dev.badCells = map[cell]bool{}
	}
	dev.badCells[cell{len(dev.Tags), name}] = true
}

func (tagsValue) schema() schema {
	tags := tagTable()
	return schema{"anyOf": []schema{
		{"type": "string", "pattern": `(\.[cC][sS][vV]|\.[xX][lL][sS][xX]|\})$`},
		{"type": "array", "minItems": 1, "items": tags.schema()},
	}}
}
