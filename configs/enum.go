package configs

import (
	"fmt"
	"strconv"
	"strings"

	"millrace/protocols"
)

// enumValue is the texts of a tag's numbers: 0=stopped;1=running, or in YAML
// also {0: stopped, 1: running}.
type enumValue struct{}

const enumPattern = `^\s*-?[0-9]+\s*=[^;=]+(;\s*-?[0-9]+\s*=[^;=]+)*;?\s*$`

func enumForm() form[map[int64]string] {
	return form[map[int64]string]{
		want:   "numbers and their texts, such as 0=stopped;1=running",
		quotes: onlyText,
		parse:  parseEnum,
		spec:   schema{"type": "string", "pattern": enumPattern},
	}
}

func parseEnum(s string) (map[int64]string, error) {
	m := map[int64]string{}
	for part := range strings.SplitSeq(strings.TrimSuffix(strings.TrimSpace(s), ";"), ";") {
		number, text, ok := strings.Cut(part, "=")
		if !ok {
			return nil, errForm
		}
		if err := addEnum(m, strings.TrimSpace(number), strings.TrimSpace(text)); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func addEnum(m map[int64]string, number, text string) error {
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return hint(fmt.Sprintf("%q is not a whole number", number))
	}
	if text == "" {
		return hint(fmt.Sprintf("%d has no text", n))
	}
	if _, ok := m[n]; ok {
		return hint(fmt.Sprintf("%d stands there twice", n))
	}
	m[n] = text
	return nil
}

func (enumValue) read(l *loader, name string, n *node, t *protocols.Tag) {
	if n.kind != mapNode {
		as(enumForm(), func(t *protocols.Tag, m map[int64]string) { t.Enum = m }).read(l, name, n, t)
		return
	}
	m := make(map[int64]string, len(n.entries))
	for _, e := range n.entries {
		text, err := anyText().parseNode(e.value)
		if err == nil {
			err = addEnum(m, e.name, text)
		}
		if err != nil {
			l.problem(e.pos, "%s: expected numbers and their texts, such as {0: stopped, 1: running}, got %q; check its number and its text", name, e.name)
		}
	}
	t.Enum = m
}

func (enumValue) schema() schema {
	text := enumForm().schema()
	return schema{"anyOf": []schema{text, {
		"type":                 "object",
		"propertyNames":        schema{"pattern": "^-?[0-9]+$"},
		"additionalProperties": schema{"type": []string{"string", "number", "boolean"}},
	}}}
}
