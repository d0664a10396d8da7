package buffer

import (
	"bytes"
	"fmt"
)

// maxCachedSchemas bounds the schemas of earlier runs that are kept in memory.
const maxCachedSchemas = 256

// schemaCache holds this run's schemas, and some that were read back.
type schemaCache struct {
	own   map[uint64][]byte
	found map[uint64][]byte
}

func newSchemaCache() schemaCache {
	return schemaCache{own: make(map[uint64][]byte), found: make(map[uint64][]byte)}
}

func (c *schemaCache) has(id uint64) bool {
	_, ok := c.own[id]
	return ok
}

func (c *schemaCache) get(id uint64) ([]byte, bool) {
	blob, ok := c.own[id]
	if !ok {
		blob, ok = c.found[id]
	}
	return blob, ok
}

func (c *schemaCache) keep(id uint64, blob []byte) {
	if len(c.found) >= maxCachedSchemas {
		clear(c.found)
	}
	c.found[id] = blob
}

// PutSchema makes a schema known, so that records may name it. id stands for
// the content (a hash of it): putting a known id again is cheap and changes
// nothing. Every file that holds records of a schema holds the schema too.
func (b *Buffer) PutSchema(id uint64, blob []byte) error {
	if len(blob) > maxSchemaSize {
		return fmt.Errorf("a schema of %d bytes: %w (at most %d)", len(blob), ErrTooLarge, maxSchemaSize)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	if !b.schemas.has(id) {
		b.schemas.own[id] = bytes.Clone(blob)
		b.shareSchema(id, blob)
	}
	return nil
}

// Schema returns what PutSchema was called with, in this run or the one that
// wrote the records that are being forwarded. The bytes must not be changed.
func (b *Buffer) Schema(id uint64) ([]byte, error) {
	b.mu.Lock()
	blob, ok := b.schemas.get(id)
	segments := append([]*segment(nil), b.segments...)
	d := b.disk
	b.mu.Unlock()
	if ok {
		return blob, nil
	}
	// The oldest segment comes first: it is the one that is being drained.
	for _, s := range segments {
		src, err := d.files.acquire(s)
		if err != nil {
			continue // its records are not readable either
		}
		blob, err := src.schema(id)
		d.files.release(s)
		if err != nil || blob == nil {
			continue
		}
		b.mu.Lock()
		b.schemas.keep(id, blob)
		b.mu.Unlock()
		return blob, nil
	}
	return nil, fmt.Errorf("%w %d", ErrUnknownSchema, id)
}
