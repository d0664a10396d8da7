package opcua

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/gopcua/opcua/ua"
)

// address is a tag's address as it is written: a NodeId or a browse path,
// perhaps with an index range.
type address struct {
	ns    uint16
	uri   string // of the namespace, where it was given as nsu=; ns is then 0
	kind  byte   // i, s, g or b; pathKind
	num   uint32 // of kind i
	text  string // of kind s; of a path, as pathText writes it
	bytes []byte // of kind b; of kind g the 16 bytes in the order they are written
	rng   string // index range as the services want it, such as "0:3"; may be empty
	one   bool   // rng names a single element: its value is that element
	form  *form  // what is known of the node's data type, at the server that is connected; nil: nothing
	path  []pathSegment
	found *ua.NodeID // what a path leads to in the present session; nil: to none. See bus.resolvePaths
}

// pathKind is the kind of an address that is a browse path.
const pathKind = '/'

// exampleAddress is part of every message about a wrong address.
const exampleAddress = `write it like ns=2;s=Line1.Speed, ns=2;i=1001, nsu=http://example.com/UA;s=Speed or /Objects/Line1/Speed, perhaps with an index range [0:3]`

// parseAddress reads
//
//	[ns=N; | nsu=URI;] (i=NUMBER | s=TEXT | g=GUID | b=BASE64) [range]
//
// where the range is [a:b], both ends included, or [n] for one element; a
// matrix has one for each of its dimensions, as in [0:3,1:2].
//
// String identifiers often end in a bracket of their own: Siemens, Beckhoff
// and CODESYS servers name the element of an array `"DB1"."Speeds"[2]`. So
// with s=, a single [n] belongs to the identifier and only [a:b] is a range
// ([n:n] for one element). An empty [] at the end says that no range follows,
// for an identifier that itself ends in something like [0:3]. The same holds
// for the last name of a browse path, which is the other way to write an
// address (see parsePath).
func parseAddress(s string) (address, error) {
	var a address
	rest := s
	if strings.HasPrefix(s, "/") {
		return parsePathAddress(s)
	}
	switch {
	case strings.HasPrefix(rest, "ns="):
		text, after, ok := strings.Cut(rest[3:], ";")
		n, err := strconv.ParseUint(text, 10, 16)
		if !ok || err != nil {
			return a, fmt.Errorf("ns= wants a number from 0 to 65535 and a semicolon; %s", exampleAddress)
		}
		a.ns, rest = uint16(n), after
	case strings.HasPrefix(rest, "nsu="):
		// The URI may hold semicolons (as %3B, says the standard, but not all
		// heed it), so the identifier is looked for from its own mark.
		at := identifierMark(rest)
		if at <= len("nsu=") {
			return a, fmt.Errorf("nsu= wants the URI of a namespace, a semicolon and an identifier; %s", exampleAddress)
		}
		a.uri, rest = uriUnescaper().Replace(rest[4:at]), rest[at+1:]
	case strings.HasPrefix(rest, "svr="):
		return a, fmt.Errorf("svr= names another server; give that server as a device of its own; %s", exampleAddress)
	}
	if len(rest) < 3 || rest[1] != '=' || !strings.ContainsRune("isgb", rune(rest[0])) {
		return a, fmt.Errorf("%q is no NodeId; %s", s, exampleAddress)
	}
	a.kind = rest[0]
	id, err := a.cutRange(rest[2:])
	if err != nil {
		return a, err
	}
	err = a.setIdentifier(id)
	return a, err
}

func parsePathAddress(s string) (address, error) {
	a := address{kind: pathKind}
	text, err := a.cutRange(s)
	if err == nil {
		a.path, err = parsePath(text)
	}
	a.text = pathText(a.path)
	return a, err
}

// identifierMark returns where in s the semicolon before the identifier is, or -1.
func identifierMark(s string) int {
	best := -1
	for _, mark := range []string{";s=", ";i=", ";g=", ";b="} {
		if i := strings.Index(s, mark); i >= 0 && (best < 0 || i < best) {
			best = i
		}
	}
	return best
}

// uriUnescaper undoes what Part 6, 5.3.1.11 wants done to a URI in a NodeId.
func uriUnescaper() *strings.Replacer { return strings.NewReplacer("%3B", ";", "%3b", ";", "%25", "%") }

// cutRange takes the index range off the end of an identifier.
func (a *address) cutRange(id string) (string, error) {
	if !strings.HasSuffix(id, "]") {
		return id, nil
	}
	at := strings.LastIndexByte(id, '[')
	if at < 0 {
		return id, nil
	}
	inner := id[at+1 : len(id)-1]
	if inner == "" {
		return id[:at], nil
	}
	if (a.kind == 's' || a.kind == pathKind) && !looksLikeRange(inner) {
		return id, nil
	}
	a.one = true
	for i, dim := range strings.Split(inner, ",") {
		rng, one, err := dimension(dim)
		if err != nil {
			return "", fmt.Errorf("[%s] is no index range; write [2], [0:3] or, for a matrix, [0:3,1:2], the smaller index first, counted from 0", inner)
		}
		if i > 0 {
			rng = "," + rng
		}
		a.rng, a.one = a.rng+rng, a.one && one
	}
	return id[:at], nil
}

// dimension reads the range of one dimension, and writes it as the services want
// it: one of a single element has no colon (Part 4, 7.27).
func dimension(s string) (rng string, one bool, err error) {
	from, to, both := strings.Cut(s, ":")
	lo, err := strconv.ParseUint(from, 10, 31)
	hi := lo
	if err == nil && both {
		hi, err = strconv.ParseUint(to, 10, 31)
	}
	if err != nil || hi < lo {
		return "", false, fmt.Errorf("%q is no range", s)
	}
	if hi == lo {
		return strconv.FormatUint(lo, 10), true, nil
	}
	return strconv.FormatUint(lo, 10) + ":" + strconv.FormatUint(hi, 10), false, nil
}

// looksLikeRange says that s consists of digits with a colon among them.
func looksLikeRange(s string) bool {
	colon := false
	for i := range len(s) {
		switch c := s[i]; {
		case c == ':':
			colon = true
		case (c < '0' || c > '9') && c != ',':
			return false
		}
	}
	return colon
}

func (a *address) setIdentifier(id string) error {
	switch a.kind {
	case 'i':
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return fmt.Errorf("i=%s: i= wants a number from 0 to 4294967295; %s", id, exampleAddress)
		}
		a.num = uint32(n)
	case 's':
		if id == "" {
			return errors.New("s= wants an identifier; " + exampleAddress)
		}
		a.text = id
	case 'g':
		b, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
		if err != nil || len(b) != 16 || len(id) != 36 {
			return fmt.Errorf("g=%s: g= wants a GUID such as 09087e75-8e5e-499b-954f-f2a9603db28a", id)
		}
		a.bytes = b
	case 'b':
		b, err := base64.StdEncoding.DecodeString(id)
		if err != nil || len(b) == 0 {
			return fmt.Errorf("b=%s: b= wants bytes in base64, such as TWlsbHJhY2U=", id)
		}
		a.bytes = b
	}
	return nil
}

// nodeID returns the NodeId of a at a server with the given namespaces; false
// if it has no namespace with the address's URI, or a path leads nowhere.
func (a *address) nodeID(namespaces []string) (*ua.NodeID, bool) {
	if a.kind == pathKind {
		return a.found, a.found != nil
	}
	ns := a.ns
	if a.uri != "" {
		i := indexOf(namespaces, a.uri)
		if i < 0 {
			return nil, false
		}
		ns = uint16(i)
	}
	switch a.kind {
	case 'i':
		return ua.NewNumericNodeID(ns, a.num), true
	case 's':
		return ua.NewStringNodeID(ns, a.text), true
	case 'g':
		return ua.NewGUIDNodeID(ns, guidText(a.bytes)), true
	default:
		return ua.NewByteStringNodeID(ns, a.bytes), true
	}
}

func guidText(b []byte) string {
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func indexOf(list []string, s string) int {
	for i, e := range list {
		if e == s && i <= 0xFFFF {
			return i
		}
	}
	return -1
}

// node is the NodeId that a names, as the key of a map: what was written, but
// for the range.
func (a *address) node() string {
	if a.kind == 's' && a.uri == "" {
		return strconv.Itoa(int(a.ns)) + "s" + a.text
	}
	return fmt.Sprintf("%d %s %c %d %s %x", a.ns, a.uri, a.kind, a.num, a.text, a.bytes)
}
