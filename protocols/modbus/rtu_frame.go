package modbus

import "encoding/binary"

// What an RTU frame carries: unit, function, data, checksum. It has no
// number that says which request it answers, no sign that tells a request
// from an answer, and no mark where it begins. So every frame on the line is
// looked at against what was asked, and what may come late.

const (
	rtuOverhead  = 1 + 1 + 2       // unit, function, checksum
	rtuAnswer    = rtuOverhead + 1 // of an answer, beside its values: the byte count
	rtuException = rtuOverhead + 1 // the exception code
	rtuRequest   = rtuOverhead + 4 // address, quantity
	rtuAskID     = rtuOverhead + 3 // kind, code, object
	maxRTU       = 256             // MODBUS over Serial Line V1.02, 2.4
	maxNoise     = 3               // bytes that are taken for noise; more may be what another master asked, spoilt by what we did
	rtuBuffer    = 4 * maxRTU      // more than that does not wait on any line
)

// crc16 is the checksum of RTU frames (MODBUS over Serial Line V1.02, 6.2.2).
func crc16(frame []byte) uint16 {
	crc := uint16(0xffff)
	for _, b := range frame {
		crc = crc>>8 ^ crcTable[byte(crc)^b]
	}
	return crc
}

// crcTable is what each byte does to the checksum.
var crcTable = makeCRCTable() //nolint:gochecknoglobals // a constant table

func makeCRCTable() (table [256]uint16) {
	for i := range table {
		crc := uint16(i)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ 0xa001
			} else {
				crc >>= 1
			}
		}
		table[i] = crc
	}
	return table
}

// sound says that frame ends with its checksum.
func sound(frame []byte) bool {
	n := len(frame) - 2
	return n >= 2 && crc16(frame[:n]) == binary.LittleEndian.Uint16(frame[n:])
}

// findKind is what find found.
type findKind uint8

const (
	foundNothing findKind = iota // it needs more bytes
	foundAnswer                  // to the call
	foundLate                    // to an earlier call; it is consumed
	foundForeign                 // a whole frame that has nothing to do with us
	foundDamaged                 // what should have been the answer has a wrong checksum
)

// found is a frame in what has arrived.
type found struct {
	kind  findKind
	frame []byte
	used  int // bytes of the input up to its end
	noise int // those of them before its begin
}

// listener knows which frames may come.
type listener struct {
	call *call  // nil: none is awaited
	echo []byte // the request as it was sent, until it was heard or an answer was; nil: no echo is expected
	late *lateList
}

// find looks for the first frame in what has arrived. Where there is none at
// the front, it looks further: noise before a frame, as from a line whose
// direction is switched, is passed over. While the front may be the
// beginning of the answer, only the last look goes on behind it.
func (l *listener) find(in []byte, last bool) found {
	// Some adapters bring back what they send.
	if n := len(l.echo); n > 0 && len(in) >= n && string(in[:n]) == string(l.echo) {
		f := l.search(in[n:], last)
		f.used += n
		return f
	}
	return l.search(in, last)
}

func (l *listener) search(in []byte, last bool) found {
	var damaged found
	for at := range in {
		f := l.at(in[at:])
		switch f.kind {
		case foundAnswer, foundLate, foundForeign:
			f.used, f.noise = at+len(f.frame), at
			return f
		case foundDamaged:
			if at == 0 {
				damaged = f
			}
		case foundNothing:
			if at == 0 && !last && l.awaits(in) {
				return f
			}
		}
	}
	damaged.used = len(damaged.frame)
	return damaged
}

// another looks through what came behind the answer, and returns a frame that
// makes it doubtful: another one that could be the answer, or somebody
// else's. The same once more does not.
func (l *listener) another(answer, behind []byte) []byte {
	for {
		f := l.find(behind, true)
		switch {
		case f.kind == foundNothing:
			return nil
		case f.kind == foundForeign, f.kind == foundAnswer && string(f.frame) != string(answer):
			return f.frame
		}
		behind = behind[f.used:]
	}
}

// awaits says that in may be the beginning of the answer.
func (l *listener) awaits(in []byte) bool {
	c := l.call
	switch {
	case c == nil || in[0] != c.unit || len(in) > 1 && in[1]&0x7f != c.function:
		return false
	case len(in) > 1 && in[1] == encapsulated:
		n := idFrame(in)
		return n == 0 || len(in) < n
	case len(in) > 2 && in[1] == c.function:
		return int(in[2]) == c.dataBytes() && len(in) < rtuAnswer+c.dataBytes()
	}
	return len(in) < rtuException
}

// at looks at the frame that in begins with.
func (l *listener) at(in []byte) found {
	if len(in) < rtuException {
		return found{}
	}
	unit, function := in[0], in[1]
	if c := l.call; c != nil && unit == c.unit {
		switch {
		case function == c.function|0x80:
			if f := in[:rtuException]; sound(f) {
				return found{kind: foundAnswer, frame: f}
			}
		case c.function == encapsulated && function == encapsulated:
			if n := idFrame(in); n >= 0 {
				return idFound(in, n)
			}
		case function == c.function && int(in[2]) == c.dataBytes():
			n := rtuAnswer + c.dataBytes()
			if len(in) < n {
				return found{}
			}
			if f := in[:n]; sound(f) {
				return found{kind: foundAnswer, frame: f}
			}
			return found{kind: foundDamaged, frame: in[:n]}
		}
	}
	return l.other(in, unit, function)
}

// other looks for a frame that is not the answer.
func (l *listener) other(in []byte, unit, function byte) found {
	if function&0x80 != 0 {
		if f := in[:rtuException]; sound(f) {
			return found{kind: l.strange(unit, function&0x7f, -1), frame: f}
		}
		return found{}
	}
	if function == encapsulated {
		if n := idFrame(in); n > 0 && len(in) >= n && sound(in[:n]) {
			return found{kind: l.strange(unit, function, 0), frame: in[:n]}
		}
		if len(in) >= rtuAskID && sound(in[:rtuAskID]) {
			return found{kind: foundForeign, frame: in[:rtuAskID]}
		}
		return found{}
	}
	if function == 0 || function > 24 {
		return found{}
	}
	if n := rtuAnswer + int(in[2]); function <= 4 && len(in) >= n && sound(in[:n]) {
		return found{kind: l.strange(unit, function, int(in[2])), frame: in[:n]}
	}
	if len(in) >= rtuRequest && sound(in[:rtuRequest]) {
		return found{kind: foundForeign, frame: in[:rtuRequest]}
	}
	return found{}
}

// idFrame returns how long the answer to Read Device Identification is that in
// begins with: 0 if there is too little of it to know, -1 if it is none.
func idFrame(in []byte) int {
	const header = 2 + deviceIDHeader // with unit and function
	if len(in) > 2 && in[2] != deviceID {
		return -1
	}
	if len(in) < header {
		return 0
	}
	n := header
	for range in[header-1] {
		if n+2 > maxRTU-2 {
			return -1
		}
		if len(in) < n+2 {
			return 0
		}
		n += 2 + int(in[n+1])
	}
	if n += 2; n > maxRTU {
		return -1
	}
	return n
}

// idFound looks at the awaited answer that is n bytes long; 0: that is not
// known yet.
func idFound(in []byte, n int) found {
	switch {
	case n == 0 || len(in) < n:
		return found{}
	case sound(in[:n]):
		return found{kind: foundAnswer, frame: in[:n]}
	}
	return found{kind: foundDamaged, frame: in[:n]}
}

// strange says whether a frame that was not awaited is a late answer to us,
// or somebody else's.
func (l *listener) strange(unit, function byte, size int) findKind {
	if l.late.heard(unit, function, size) {
		return foundLate
	}
	return foundForeign
}
