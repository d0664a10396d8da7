package modbustest

// Identity is what a unit answers to Read Device Identification (MODBUS
// Application Protocol V1.1b3, 6.21).
type Identity struct {
	Conformity byte            // the level that it says it has: 1 basic, 2 regular, 3 extended
	Objects    map[byte]string // by the objects' ids
	// Room is how many bytes of objects fit into one answer, at most; 0: as many
	// as the protocol allows.
	Room int
	// Strict refuses codes above the level, instead of answering by it.
	Strict bool
}

// SetIdentity makes u say who it is from now on; nil: it does not know that
// question.
func (u *Unit) SetIdentity(id *Identity) { u.identity.Store(id) }

const (
	deviceID     = 0x0e
	maxIDObjects = 256 - 2 - 8 // of an RTU frame, beside its header and checksum
)

// answer makes the answer to the request in frame, behind its function code,
// in out, and returns its size, or an exception.
func (id *Identity) answer(frame, out []byte) (int, uint8) {
	if len(frame) < 11 || frame[8] != deviceID {
		return 0, illegalFunction
	}
	code, from := frame[9], frame[10]
	level := min(code, id.Conformity)
	if code < 1 || code > 3 || id.Strict && code > id.Conformity {
		return 0, illegalValue
	}
	last := []byte{0, 0x02, 0x06, 0xff}[level]
	if _, found := id.Objects[from]; !found {
		from = 0
	}
	copy(out, []byte{deviceID, code, id.Conformity, 0, 0, 0})
	n, room := 6, maxIDObjects
	if id.Room > 0 {
		room = id.Room
	}
	for i := int(from); i <= int(last); i++ {
		text, found := id.Objects[byte(i)]
		switch {
		case !found:
			continue
		case out[5] > 0 && n-6+2+len(text) > room:
			out[3], out[4] = 0xff, byte(i)
			return n, 0
		}
		out[n], out[n+1] = byte(i), byte(len(text))
		n += 2 + copy(out[n+2:], text)
		out[5]++
	}
	return n, 0
}
