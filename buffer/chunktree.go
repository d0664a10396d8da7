package buffer

import (
	"bytes"

	bolt "go.etcd.io/bbolt"
)

// chunkTree is the chunks of a segment, as load.put wrote them: a bucket for
// each commit, by the first seq in it, with the commit's chunks, by theirs. It
// is good as long as its transaction.
type chunkTree struct{ groups *bolt.Bucket }

// forEach calls fn with every chunk, in order, until one call fails.
func (t *chunkTree) forEach(fn func(v []byte) error) error {
	return t.groups.ForEachBucket(func(k []byte) error {
		return t.groups.Bucket(k).ForEach(func(_, v []byte) error { return fn(v) })
	})
}

func (t *chunkTree) cursor() *chunkCursor {
	return &chunkCursor{tree: t, groups: t.groups.Cursor()}
}

// chunkCursor walks over the chunks of a segment, in order.
type chunkCursor struct {
	tree   *chunkTree
	groups *bolt.Cursor
	chunks *bolt.Cursor // in the group that groups stands at
}

// seek moves to the chunk in which seq is or, where there is none, to one
// beside it, and returns it; nil if the segment holds nothing.
func (c *chunkCursor) seek(seq uint64) []byte {
	key := seqKey(seq)
	group, _ := seekUpTo(c.groups, key)
	if group == nil {
		return nil
	}
	if c.enter(group) {
		if _, v := seekUpTo(c.chunks, key); v != nil {
			return v
		}
	}
	return c.next()
}

// next returns the next chunk; nil after the last one.
func (c *chunkCursor) next() []byte {
	if c.chunks != nil {
		if _, v := c.chunks.Next(); v != nil {
			return v
		}
	}
	for group, _ := c.groups.Next(); group != nil; group, _ = c.groups.Next() {
		if c.enter(group) {
			if _, v := c.chunks.First(); v != nil {
				return v
			}
		}
	}
	return nil
}

// enter opens a group; false: it is none.
func (c *chunkCursor) enter(group []byte) bool {
	c.chunks = nil
	if b := c.tree.groups.Bucket(group); b != nil {
		c.chunks = b.Cursor()
	}
	return c.chunks != nil
}

// seekUpTo moves c to key or, where it is missing, to the one before it; to
// the first one if there is none before it.
func seekUpTo(c *bolt.Cursor, key []byte) (k, v []byte) {
	k, v = c.Seek(key)
	switch {
	case bytes.Equal(k, key):
		return k, v
	case k == nil:
		k, v = c.Last()
	default:
		k, v = c.Prev()
	}
	if k == nil {
		return c.First()
	}
	return k, v
}
