package opcua

import (
	"reflect"

	"github.com/gopcua/opcua/ua"
)

// rawBody is the body of a structure as it came. gopcua (v0.9.1) throws away
// the bodies of structures that it has no Go type for; it keeps those of the
// encodings that rawBody is registered for.
//
// Its registry belongs to the process and knows no servers, but since all
// servers get the same rawBody, it does not matter that the same NodeId means
// something else at the next one.
type rawBody struct{ data []byte }

// Decode takes the whole body. It is called by gopcua.
func (r *rawBody) Decode(b []byte) (int, error) {
	r.data = b
	return len(b), nil
}

// keepRaw has gopcua keep the bodies of structures with the given encoding.
// It is false where gopcua has a Go type of its own for them.
func keepRaw(encoding *ua.NodeID) (kept bool) {
	defer func() {
		if recover() != nil {
			kept = false // it panics where there is another type
		}
	}()
	ua.RegisterExtensionObject(encoding, new(rawBody))
	return true
}

// goTypeOf returns gopcua's own type for an encoding; nil if it has none. Its
// registry has no other way to be asked.
func goTypeOf(encoding *ua.NodeID) reflect.Type {
	id, err := encoding.Encode()
	if err != nil {
		return nil
	}
	o := new(ua.ExtensionObject)
	// A body of one byte: an empty one would not be looked at. That it is too
	// short does not matter.
	_, _ = o.Decode(append(id, ua.ExtensionObjectBinary, 1, 0, 0, 0, 0))
	switch o.Value.(type) {
	case nil, *rawBody:
		return nil
	}
	return reflect.TypeOf(o.Value).Elem()
}

// maxArrayLength is how many elements an array may have.
const maxArrayLength = 1 << 20

// gopcua refuses the whole answer when an array in it has more than 65,535
// elements, which a matrix soon has. What bounds them is a variable of its
// package, read by all connections: it is set before there are any.
func init() { //nolint:gochecknoinits // a variable of gopcua's that nothing guards
	ua.MaxVariantArrayLength = maxArrayLength
}
