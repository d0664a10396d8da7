// Package sparkplugtest decodes Sparkplug payloads by npm's sparkplug-payload:
// a decoder that is not ours, to hold ours and the encoder against.
package sparkplugtest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
)

// Payload is a payload as that decoder has it. Whole numbers of 64 bits are
// texts, so that they keep their digits; bytes are in base64.
type Payload struct {
	Timestamp *string  `json:"timestamp"`
	Seq       *string  `json:"seq"`
	Metrics   []Metric `json:"metrics"`
	Error     string   `json:"error"`
}

// Metric is one metric.
type Metric struct {
	Name         string      `json:"name"`
	Alias        *string     `json:"alias"`
	Timestamp    *string     `json:"timestamp"`
	DataType     uint32      `json:"datatype"`
	IsHistorical bool        `json:"isHistorical"`
	IsNull       bool        `json:"isNull"`
	Properties   *Properties `json:"properties"`
	Value        string      `json:"value"` // the name of the field that holds it
	Values
	BytesValue    []byte    `json:"bytesValue"`
	TemplateValue *Template `json:"templateValue"`
}

// Values are the fields of scalar values.
type Values struct {
	IntValue     uint32      `json:"intValue"`
	LongValue    string      `json:"longValue"`
	FloatValue   json.Number `json:"floatValue"`
	DoubleValue  json.Number `json:"doubleValue"`
	BooleanValue bool        `json:"booleanValue"`
	StringValue  string      `json:"stringValue"`
}

// Properties are the properties of a metric.
type Properties struct {
	Keys   []string `json:"keys"`
	Values []struct {
		Type  uint32 `json:"type"`
		Value string `json:"value"`
		Values
	} `json:"values"`
}

// Template is a definition or an instance.
type Template struct {
	Metrics      []Metric `json:"metrics"`
	TemplateRef  *string  `json:"templateRef"`
	IsDefinition *bool    `json:"isDefinition"`
}

// Decode decodes payloads. The packages of npm must have been installed, as
// .ci/deps does.
func Decode(payloads ...[]byte) ([]Payload, error) {
	_, file, _, _ := runtime.Caller(0)
	var in bytes.Buffer
	for _, p := range payloads {
		in.WriteString(hex.EncodeToString(p) + "\n")
	}
	cmd := exec.Command("node", filepath.Join(filepath.Dir(file), "decode.js"))
	cmd.Stdin = &in
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("node decode.js (.ci/deps installs what it needs): %w: %s", err, errors.Bytes())
	}
	all := make([]Payload, 0, len(payloads))
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p Payload
		if err := d.Decode(&p); err != nil {
			return nil, fmt.Errorf("what node wrote: %w", err)
		}
		all = append(all, p)
	}
	if len(all) != len(payloads) {
		return nil, fmt.Errorf("node decoded %d of %d payloads", len(all), len(payloads))
	}
	return all, nil
}
