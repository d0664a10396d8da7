package opcua

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// anyNamespace is the namespace of a name that is written without one.
const anyNamespace = -1

// pathSegment is one browse name of a path.
type pathSegment struct {
	ns   int32 // anyNamespace: not given
	name string
}

// pathRune is a character of a path; one behind an & is only itself.
type pathRune struct {
	r       rune
	escaped bool
}

const (
	maxPathBytes    = 4096
	maxPathSegments = 100
)

// examplePath is part of every message about a wrong path.
const examplePath = "write it like /Objects/Line1/Speed or /Objects/2:Line1/2:Speed"

// splitPath cuts a text like /Objects/2:Line1/Speed at its slashes. As in the
// text form of a RelativePath (Part 4, A.2) an & makes the character behind it
// an ordinary one: a name with a slash is written a&/b.
func splitPath(s string) ([][]pathRune, error) {
	switch {
	case !strings.HasPrefix(s, "/"):
		return nil, errors.New("a path begins with /")
	case len(s) > maxPathBytes:
		return nil, fmt.Errorf("a path of more than %d characters", maxPathBytes)
	}
	var (
		all     [][]pathRune
		segment []pathRune
		escaped bool
	)
	for _, r := range s[1:] {
		switch {
		case escaped:
			segment, escaped = append(segment, pathRune{r, true}), false
		case r == '&':
			escaped = true
		case r == '/':
			all, segment = append(all, segment), nil
		default:
			segment = append(segment, pathRune{r: r})
		}
	}
	if escaped {
		return nil, errors.New("an & at the end escapes nothing; write && for the character itself")
	}
	all = append(all, segment)
	if len(all) > maxPathSegments {
		return nil, fmt.Errorf("a path of more than %d names", maxPathSegments)
	}
	for _, segment := range all {
		if len(segment) == 0 {
			return nil, errors.New("a name between two slashes, or behind the last one, is empty; a slash within a name is written &/")
		}
	}
	return all, nil
}

// cutNamespace takes the index of a namespace off the front of a segment: 2:Name.
func cutNamespace(segment []pathRune) (ns int32, name []pathRune, err error) {
	n := 0
	for n < len(segment) && !segment[n].escaped && segment[n].r >= '0' && segment[n].r <= '9' {
		n++
	}
	if n == 0 || n == len(segment) || segment[n].escaped || segment[n].r != ':' {
		return anyNamespace, segment, nil
	}
	number, err := strconv.ParseUint(plain(segment[:n]), 10, 16)
	if err != nil {
		return 0, nil, fmt.Errorf("a colon within a name is written &:, and %s is no index of a namespace (0 to 65535)", plain(segment[:n+1]))
	}
	if n+1 == len(segment) {
		return 0, nil, fmt.Errorf("there is no name behind %s", plain(segment[:n+1]))
	}
	return int32(number), segment[n+1:], nil
}

// plain returns the characters of a segment.
func plain(segment []pathRune) string {
	var b strings.Builder
	for _, c := range segment {
		b.WriteRune(c.r)
	}
	return b.String()
}

// roots are the folders that every server has below its root (Part 5, 8.2),
// by their names, with their NodeIds.
func roots() map[string]uint32 {
	return map[string]uint32{"Objects": objectsFolder, "Types": typesFolder, "Views": viewsFolder}
}

// parsePath reads a tag's browse path.
func parsePath(s string) ([]pathSegment, error) {
	parts, err := splitPath(s)
	if err != nil {
		return nil, fmt.Errorf("%w; %s", err, examplePath)
	}
	path := make([]pathSegment, len(parts))
	for i, part := range parts {
		ns, name, err := cutNamespace(part)
		if err != nil {
			return nil, fmt.Errorf("%w; %s", err, examplePath)
		}
		path[i] = pathSegment{ns, plain(name)}
	}
	if path[0].ns == anyNamespace {
		path[0].ns = 0
	}
	if _, ok := roots()[path[0].name]; !ok || path[0].ns != 0 {
		return nil, wrongRoot(path)
	}
	if len(path) == 1 {
		return nil, fmt.Errorf("%s is a folder and has no value; %s", pathText(path), examplePath)
	}
	return path, nil
}

// wrongRoot says what a path that begins with the wrong name may mean.
func wrongRoot(path []pathSegment) error {
	begin := "a browse path begins with /Objects (or /Types, /Views)"
	if strings.EqualFold(path[0].name, "Root") && len(path) > 1 {
		return fmt.Errorf("%s: leave /%s out", begin, path[0].name)
	}
	for name := range roots() {
		if strings.EqualFold(path[0].name, name) {
			return fmt.Errorf("%s, written so", begin)
		}
	}
	return fmt.Errorf("%s: perhaps /Objects%s; %s", begin, pathText(path), examplePath)
}

// pathText writes a path as parsePath reads it.
func pathText(path []pathSegment) string {
	var b strings.Builder
	for i, s := range path {
		b.WriteByte('/')
		if s.ns != anyNamespace && (i > 0 || s.ns != 0) {
			b.WriteString(strconv.Itoa(int(s.ns)))
			b.WriteByte(':')
		}
		writeName(&b, s.name, s.ns == anyNamespace)
	}
	return b.String()
}

// writeName writes a browse name so that it is read as one. bare says that no
// index of a namespace stands before it.
func writeName(b *strings.Builder, name string, bare bool) {
	digits := bare
	for i, r := range name {
		switch {
		case r == '/', r == '&', r == ':' && digits && i > 0:
			b.WriteByte('&')
		}
		if r < '0' || r > '9' {
			digits = false
		}
		b.WriteRune(r)
	}
}
