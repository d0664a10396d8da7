package configs

import (
	"time"

	"millrace/protocols"
)

// tagTable is one tag: the columns of a tag map, and the keys of a tag in
// the YAML file.
func tagTable() table[protocols.Tag] {
	return table[protocols.Tag]{where: "a tag", keys: []key[protocols.Tag]{
		{
			name: "name", required: true,
			doc: "The tag's name, unique in the device. Up to 128 characters of any script.",
			val: as(name("a name", 128, ""), func(t *protocols.Tag, v string) { t.Name = v }),
		},
		{
			name: "address", required: true,
			doc: "Where the value is. Modbus: holding:100, input:7, coil:3, discrete:12, a bit as holding:100.3, a range of bits as holding:100.4-7, or 40001. OPC UA: a NodeId such as ns=2;s=Axis1.Torque, or a browse path such as /Objects/Line1/Speed.",
			val: as(numbered("an address"), func(t *protocols.Tag, v string) { t.Address = v }),
		},
		{
			name: "type",
			doc:  "Modbus: bool, int16, uint16, int32, uint32, int64, uint64, float16, float32, float64, bcd16, bcd32, bcd64, string(N), bytes(N), a date-time (unix32, unix64, unix64ms; with the device's time_zone iec870, ymdhms, ymdhmsms, ymdhms8, bcdtime, mdyhms), or an array of them as T[n]. OPC UA: the server knows; a name such as Int16 or Double[] is documentation, and the type of Sparkplug's births before the first value.",
			val:  as(filled("a type such as uint16"), func(t *protocols.Tag, v string) { t.Type = v }),
		},
		{
			name: "order",
			doc:  "The order of the bytes, A being the most significant. Four letters are for any size; those of eight tell the halves of 64 bits apart. Default: the device's.",
			val:  as(order(), func(t *protocols.Tag, v protocols.Order) { t.Order = v }),
		},
		{
			name: "interval",
			doc:  "How often it is read. Default: the device's.",
			val:  as(interval(), func(t *protocols.Tag, v time.Duration) { t.Interval = v }),
		},
		{
			name: "scale",
			doc:  "The value is multiplied by it. With scale or offset, the result is a float64.",
			val:  as(scaleFactor(), func(t *protocols.Tag, v float64) { t.Scale, t.HasScale = v, true }),
		},
		{
			name: "offset",
			doc:  "Added to the value, after scale.",
			val:  as(number(), func(t *protocols.Tag, v float64) { t.Offset, t.HasScale = v, true }),
		},
		{
			name: "unit",
			doc:  "The unit of measure, such as bar or °C.",
			val:  as(anyText(), func(t *protocols.Tag, v string) { t.Unit = v }),
		},
		{
			name: "deadband",
			doc:  "The smallest change that is sent: 0.5, or 2% of the last value sent.",
			val:  as(deadband(), func(t *protocols.Tag, v protocols.Deadband) { t.Deadband = v }),
		},
		{
			name: "on_change",
			doc:  "true: only changes are sent, and all values again every snapshot.",
			val:  as(boolean(), func(t *protocols.Tag, v bool) { t.OnChange = v }),
		},
		{
			name: "min",
			doc:  "The lowest value that can be right, after scale and offset. Below it the tag is bad.",
			val:  as(optional(number()), func(t *protocols.Tag, v *float64) { t.Min = v }),
		},
		{
			name: "max",
			doc:  "The highest value that can be right, after scale and offset. Above it the tag is bad.",
			val:  as(optional(number()), func(t *protocols.Tag, v *float64) { t.Max = v }),
		},
		{
			name: "enum",
			doc:  "Texts for numbers: 0=stopped;1=running.",
			val:  enumValue{},
		},
		{
			name: "access",
			doc:  "read: the only access in this version. Default: read.",
			val:  as(choice([]string{"write", "read_write", "rw", "w"}, "read"), func(*protocols.Tag, string) {}),
		},
		{
			name: "description",
			doc:  "For people; it is not sent.",
			val:  as(anyText(), func(t *protocols.Tag, v string) { t.Description = v }),
		},
	}}
}
