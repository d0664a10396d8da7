package mqtt

// The first bytes of MQTT's packets for pings (MQTT 3.1.1, 3.12 and 3.13).
const (
	pingRequest  = 0xc0
	pingResponse = 0xd0
)

// frames follows the packets in a stream of bytes: where one ends, and what
// it is. The zero value is at the beginning of one.
type frames struct {
	part  framePart
	first byte
	size  int  // of what follows the length, as far as it is known
	shift uint // of the length's next 7 bits
}

type framePart uint8

const (
	frameFirst framePart = iota // the next byte is a packet's first
	frameSize                   // or one of its length
	frameBody                   // or one of what follows
)

// pongs takes in the next bytes of the stream and returns how many answers to
// a ping were in them.
func (f *frames) pongs(p []byte) (n int) {
	for len(p) > 0 {
		switch f.part {
		case frameFirst:
			*f = frames{part: frameSize, first: p[0]}
			p = p[1:]
		case frameSize:
			b := p[0]
			p = p[1:]
			f.size |= int(b&0x7f) << f.shift
			if f.shift += 7; b&0x80 != 0 {
				continue
			}
			if f.part = frameBody; f.size == 0 {
				f.part = frameFirst
				if f.first == pingResponse {
					n++
				}
			}
		case frameBody:
			step := min(f.size, len(p))
			p = p[step:]
			if f.size -= step; f.size == 0 {
				f.part = frameFirst
			}
		}
	}
	return n
}
