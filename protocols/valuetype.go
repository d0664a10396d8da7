package protocols

// ValueType is what is known of a tag's values before the first has come.
type ValueType struct {
	Kind  Kind // KindNone: nothing is known
	Bits  int  // of KindInt and KindUint: 8, 16, 32 or 64
	Array bool // of such values
}

// Typer is a Driver that knows the types of values from the configuration.
type Typer interface {
	Driver
	// ValueType returns what the device's values of t are, before t's scale
	// and enum. t is a tag of d that Check finds nothing wrong with.
	ValueType(d *Device, t *Tag) ValueType
}

// AfterTransform returns what values of the type v are once they have gone
// through the scale, the offset and the enum of t.
func (v ValueType) AfterTransform(t *Tag) ValueType {
	switch {
	case t.Enum != nil:
		return ValueType{Kind: KindString}
	case t.HasScale:
		return ValueType{Kind: KindFloat64, Array: v.Array}
	}
	return v
}
