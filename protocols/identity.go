package protocols

import (
	"context"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Identity is what a device says of itself, as on its nameplate. What it does
// not say is empty.
type Identity struct {
	Maker   string `json:"maker,omitempty"`   // 制造商
	Model   string `json:"model,omitempty"`   // 型号: the name of the type
	Product string `json:"product,omitempty"` // the code it is ordered by, where that is not the model
	Serial  string `json:"serial,omitempty"`  // 序列号
	Version string `json:"version,omitempty"` // of its hardware or firmware
	// Software names what answers for the device, where that is not the device
	// itself: an OPC UA server says who made the server, which may be anybody.
	Software string `json:"software,omitempty"`
}

// maxIdentity is how long one text of an Identity may be, in bytes; nameplates
// are shorter.
const maxIdentity = 200

// Clean returns i with texts that can be shown: devices pad them with spaces
// and zeros, and send what they like.
func (i Identity) Clean() Identity {
	for _, s := range []*string{&i.Maker, &i.Model, &i.Product, &i.Serial, &i.Version, &i.Software} {
		*s = cleanText(*s)
	}
	return i
}

func cleanText(s string) string {
	s, _, _ = strings.Cut(s, "\x00") // what is behind the end of a C string is not meant
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r), r == utf8.RuneError:
			return -1
		}
		return r
	}, s)
	if s = strings.Join(strings.Fields(s), " "); len(s) > maxIdentity {
		s = strings.ToValidUTF8(s[:maxIdentity-len("…")], "") + "…"
	}
	return s
}

// Identifier is a Bus that can ask its devices who they are.
type Identifier interface {
	Bus
	// Identify asks d, over the connection that there is, and returns what it
	// says. A device that was found not to say anything is not asked again for
	// long; that is no error, and the Identity is empty. It returns soon after
	// ctx ends. The error is an *Error: with KindRefused it is of no use to ask
	// again soon, with KindNotConnected the connection has ended. What was said
	// before it comes with it.
	Identify(ctx context.Context, d *Device) (Identity, error)
}
