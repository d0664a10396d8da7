package configs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxReferredFile is the size up to which ${file:…} reads a file: far more
// than a password or a token has, far less than what a wrong path may hold.
const maxReferredFile = 64 << 10

// resolve puts what the references in n's text stand for in their place:
// ${env:NAME}, ${file:PATH}; $${ stands for ${ itself.
func (l *loader) resolve(n *node) {
	n.raw = n.text
	rest := n.text
	if !strings.Contains(rest, "${") {
		return
	}
	var b strings.Builder
	for {
		i := strings.Index(rest, "${")
		if i < 0 {
			break
		}
		if i > 0 && rest[i-1] == '$' {
			b.WriteString(rest[:i-1] + "${")
			rest = rest[i+2:]
			continue
		}
		b.WriteString(rest[:i])
		rest = rest[i:]
		end := strings.IndexByte(rest, '}')
		if end < 0 {
			l.refuse(n, `a reference begins with ${ and has no closing "}"; write $${ for the characters ${ themselves`)
			break
		}
		p := piece{raw: rest[:end+1]}
		value, err := l.lookUp(rest[2:end])
		if err != nil {
			l.refuse(n, "%v", err)
		}
		p.value = value
		n.pieces = append(n.pieces, p)
		l.pieces = append(l.pieces, p)
		b.WriteString(value)
		rest = rest[end+1:]
	}
	b.WriteString(rest)
	n.text = b.String()
}

// lookUp returns what the inside of a reference stands for. What is not a
// reference may be part of a password, and is not shown.
func (l *loader) lookUp(ref string) (string, error) {
	scheme, name, _ := strings.Cut(ref, ":")
	switch {
	case scheme == "env" && name != "":
		value, ok := os.LookupEnv(name)
		if !ok {
			return "", fmt.Errorf("${env:%s}: the environment variable %s is not set", name, name)
		}
		return value, nil
	case scheme == "file" && name != "":
		return l.lookUpFile(name)
	}
	return "", errors.New("${ begins a reference: write ${env:NAME} or ${file:PATH}, or $${ for the characters ${ themselves")
}

func (l *loader) lookUpFile(name string) (string, error) {
	data, err := readFile(l.abs(name), maxReferredFile)
	if err != nil {
		return "", fmt.Errorf("${file:%s}: the file cannot be read: %w", name, err)
	}
	text := strings.TrimSuffix(string(data), "\n")
	return strings.TrimSuffix(text, "\r"), nil
}

// abs returns a path of the file as an absolute one.
func (l *loader) abs(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(l.dir, path)
}

// readFile reads a file that the configuration names. Its errors do not name
// the file: the configuration's own words for it are known better.
func readFile(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, errors.New(plainFileError(err))
	case info.IsDir():
		return nil, errors.New("it is a directory")
	case !info.Mode().IsRegular():
		// Reading a pipe or a terminal might never end.
		return nil, errors.New("it is not a regular file")
	case info.Size() > most:
		return nil, fmt.Errorf("it is larger than %d KiB; is it the right one?", most>>10)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, errors.New(plainFileError(err))
	}
	return data, nil
}

// plainFileError returns why a file could not be read, without its path.
func plainFileError(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such file"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

// redact takes resolved references out of a text that others wrote about n,
// which may be nil.
func (l *loader) redact(text string, n *node) string {
	if n != nil {
		if n.referred() && n.text != "" {
			text = replaceValue(text, piece{value: n.text, raw: n.raw})
		}
		for _, p := range n.pieces {
			text = replaceValue(text, p)
		}
	}
	// Of other keys, only those that are too long to be part of a word.
	const long = 4
	for _, p := range l.pieces {
		if len(p.value) >= long {
			text = replaceValue(text, p)
		}
	}
	return text
}

func replaceValue(text string, p piece) string {
	if p.value == "" {
		return text
	}
	text = strings.ReplaceAll(text, p.value, p.raw)
	quoted := strings.Trim(fmt.Sprintf("%q", p.value), `"`)
	return strings.ReplaceAll(text, quoted, p.raw)
}
