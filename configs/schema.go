package configs

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
)

// schema is a JSON Schema, or a part of one.
type schema map[string]any

// Schema returns the JSON Schema (2020-12) of the YAML file, for editors. It
// is made of the tables that the decoder reads.
func Schema() ([]byte, error) {
	root := rootTable()
	s := root.schema()
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Millrace configuration"
	s["$defs"] = schema{"reference": schema{
		"type":        "string",
		"pattern":     `\$\{(env|file):[^}]+\}`,
		"description": "The value of an environment variable (${env:NAME}) or the contents of a file (${file:PATH}).",
	}}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("configs: schema: %w", err)
	}
	return append(data, '\n'), nil
}

// schema describes the table's mapping.
func (tb *table[T]) schema() schema {
	properties := schema{}
	required := []string{}
	for i := range tb.keys {
		k := &tb.keys[i]
		properties[k.name] = k.schema()
		if k.required && k.only == "" {
			required = append(required, k.name)
		}
	}
	s := schema{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	if rules := tb.driverRules(); rules != nil {
		s["allOf"] = rules
	}
	return s
}

// driverRules say which keys a device may and must have, by its driver.
func (tb *table[T]) driverRules() []schema {
	var drivers []string
	for i := range tb.keys {
		if d := tb.keys[i].only; d != "" && (len(drivers) == 0 || drivers[len(drivers)-1] != d) {
			drivers = append(drivers, d)
		}
	}
	var rules []schema
	for _, driver := range drivers {
		properties := schema{}
		required := []string{}
		for i := range tb.keys {
			switch k := &tb.keys[i]; {
			case k.only != "" && k.only != driver:
				properties[k.name] = false
			case k.only == driver && k.required:
				required = append(required, k.name)
			}
		}
		then := schema{"properties": properties}
		if len(required) > 0 {
			then["required"] = required
		}
		rules = append(rules, schema{
			"if":   schema{"properties": schema{"driver": schema{"const": driver}}, "required": []string{"driver"}},
			"then": then,
		})
	}
	return rules
}

func (k *key[T]) schema() schema {
	s := schema{}
	maps.Copy(s, k.val.schema())
	s["description"] = k.doc
	if k.def != "" {
		s["default"] = defaultOf(k.def)
	}
	return s
}

// defaultOf returns a default as YAML would read it.
func defaultOf(text string) any {
	if n, err := strconv.Atoi(text); err == nil {
		return n
	}
	if b, err := strconv.ParseBool(text); err == nil {
		return b
	}
	return text
}
