package configs

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"millrace/protocols"
)

// Hash returns a text that differs between two devices if anything differs
// that matters to reading them: their keys and their tags, in order, but not
// where in the files these stand. It is for comparing, within one version of
// Millrace.
func Hash(d *protocols.Device) string {
	h := sha256.New()
	enc := json.NewEncoder(h)
	device := *d
	device.Tags = nil
	err := enc.Encode(device)
	for i := range d.Tags {
		t := d.Tags[i]
		t.Source = protocols.Position{}
		if err == nil {
			err = enc.Encode(t)
		}
	}
	if err != nil {
		// Only a NaN or an infinity cannot be encoded, and a configuration
		// holds neither. Such a device counts as changed.
		return "not comparable: " + err.Error()
	}
	return hex.EncodeToString(h.Sum(nil))
}
