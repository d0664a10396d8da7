package buffer

import (
	"encoding/binary"
	"errors"

	bolt "go.etcd.io/bbolt"

	"millrace/buffer/internal/clock"
)

const (
	stateName = "state.db"
	// stateVersion: what a row means is not changed without a change of rowSum,
	// because rows of another version are taken over if their checksum is right.
	stateVersion = 2

	bucketStreams  = "streams"  // ordinal → id
	bucketBoots    = "boots"    // ordinal → id of the machine's boot
	bucketClocks   = "clocks"   // boot → what is known of its clock
	bucketCursors  = "cursors"  // uplink → cursor
	bucketGaps     = "gaps"     // uplink → bucket of gaps to be announced
	bucketSegments = "segments" // ordinal, first → summary
	bucketValues   = "values"   // small values of others

	recordVersion = 1

	stateMap  = 256 << 10     // mapped at first: no remapping in the usual life
	stateStep = 16 * pageSize // by which the file grows
)

// stateImage is what state.db holds.
type stateImage struct {
	streams  map[uint64]string
	cursors  map[string]cursor
	gaps     map[string][]*pendingGap
	segments map[place]summary
	values   map[string][]byte
	boots    map[uint64]string         // which boot a stream is of
	clocks   map[string]*clock.History // by boot
}

type cursor struct {
	at    place
	acked uint64    // records acknowledged, all told
	done  []ackSpan // acknowledged beyond at
}

// summary spares the opening of a segment that is complete.
type summary struct {
	last           uint64
	oldest, newest int64 // plain time: see clocks
	readings       uint64
}

// change is what one transaction writes into state.db.
type change struct {
	stream  *streamRow
	cursors map[string]cursor
	removed []string                 // uplinks to forget
	gaps    map[string][]*pendingGap // all that are pending, for uplinks where they changed
	sealed  map[place]summary
	deleted []place // segments
	pruned  []uint64
	streams map[uint64]string // of a new file: those that it knows
	values  map[string][]byte

	boots     map[uint64]string         // which boot streams are of
	clocks    map[string]*clock.History // by boot
	bootsGone []string                  // to forget
}

type streamRow struct {
	ord uint64
	id  string
}

// put writes the change in tx.
func (c *change) put(tx *bolt.Tx) error {
	streams := row{bucketStreams, tx.Bucket([]byte(bucketStreams))}
	if c.stream != nil {
		if err := streams.put(seqKey(c.stream.ord), []byte(c.stream.id)); err != nil {
			return err
		}
	}
	for ord, id := range c.streams {
		if err := streams.put(seqKey(ord), []byte(id)); err != nil {
			return err
		}
	}
	for _, ord := range c.pruned {
		if err := streams.Delete(seqKey(ord)); err != nil {
			return err
		}
	}
	if err := errors.Join(writeUplinks(tx, c), writeClocks(tx, c)); err != nil {
		return err
	}
	segments := row{bucketSegments, tx.Bucket([]byte(bucketSegments))}
	for p, s := range c.sealed {
		if err := segments.put(placeKey(p), s.encode()); err != nil {
			return err
		}
	}
	for _, p := range c.deleted {
		if err := segments.Delete(placeKey(p)); err != nil {
			return err
		}
	}
	values := row{bucketValues, tx.Bucket([]byte(bucketValues))}
	for key, v := range c.values {
		if err := values.put([]byte(key), v); err != nil {
			return err
		}
	}
	return nil
}

func writeClocks(tx *bolt.Tx, c *change) error {
	boots, clocks := row{bucketBoots, tx.Bucket([]byte(bucketBoots))}, row{bucketClocks, tx.Bucket([]byte(bucketClocks))}
	for ord, boot := range c.boots {
		if err := boots.put(seqKey(ord), []byte(boot)); err != nil {
			return err
		}
	}
	for _, ord := range c.pruned {
		if err := boots.Delete(seqKey(ord)); err != nil {
			return err
		}
	}
	for boot, h := range c.clocks {
		if err := clocks.put([]byte(boot), h.Append(nil)); err != nil {
			return err
		}
	}
	for _, boot := range c.bootsGone {
		if err := clocks.Delete([]byte(boot)); err != nil {
			return err
		}
	}
	return nil
}

func writeUplinks(tx *bolt.Tx, c *change) error {
	cursors, gaps := row{bucketCursors, tx.Bucket([]byte(bucketCursors))}, tx.Bucket([]byte(bucketGaps))
	for name, at := range c.cursors {
		if err := cursors.put([]byte(name), at.encode()); err != nil {
			return err
		}
	}
	for name, pending := range c.gaps {
		if err := dropBucket(gaps, name); err != nil {
			return err
		}
		b, err := gaps.CreateBucket([]byte(name))
		if err != nil {
			return err
		}
		rows := row{bucketGaps + "/" + name, b}
		for _, g := range pending {
			if err := rows.put(placeKey(place{g.ord, g.From}), g.encode()); err != nil {
				return err
			}
		}
	}
	for _, name := range c.removed {
		if err := errors.Join(cursors.Delete([]byte(name)), dropBucket(gaps, name)); err != nil {
			return err
		}
	}
	return nil
}

func dropBucket(parent *bolt.Bucket, name string) error {
	if parent.Bucket([]byte(name)) == nil {
		return nil
	}
	return parent.DeleteBucket([]byte(name))
}

func placeKey(p place) []byte {
	return binary.BigEndian.AppendUint64(seqKey(p.ord), p.seq)
}

func parsePlace(k []byte) place {
	return place{binary.BigEndian.Uint64(k), binary.BigEndian.Uint64(k[8:])}
}

func (c cursor) encode() []byte { return c.appendTo(nil) }

func (c cursor) appendTo(b []byte) []byte {
	b = append(b, recordVersion)
	b = binary.BigEndian.AppendUint64(b, c.at.ord)
	b = binary.BigEndian.AppendUint64(b, c.at.seq)
	b = binary.BigEndian.AppendUint64(b, c.acked)
	for _, s := range c.done {
		if s.from <= s.to {
			b = binary.BigEndian.AppendUint64(b, s.ord)
			b = binary.BigEndian.AppendUint64(b, s.from)
			b = binary.BigEndian.AppendUint64(b, s.to)
		}
	}
	return b
}

func parseCursor(b []byte) (cursor, bool) {
	if len(b) < 25 || (len(b)-25)%24 != 0 || b[0] != recordVersion {
		return cursor{}, false
	}
	c := cursor{at: parsePlace(b[1:]), acked: binary.BigEndian.Uint64(b[17:])}
	last := c.at
	for b = b[25:]; len(b) > 0; b = b[24:] {
		from, to := parsePlace(b), binary.BigEndian.Uint64(b[16:])
		if !last.before(from) || to < from.seq {
			return cursor{}, false
		}
		c.done = append(c.done, ackSpan{ord: from.ord, from: from.seq, to: to, sent: to})
		last = place{from.ord, to}
	}
	return c, true
}

func (s summary) encode() []byte {
	b := []byte{recordVersion}
	for _, v := range []uint64{s.last, uint64(s.oldest), uint64(s.newest), s.readings} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func parseSummary(b []byte) (summary, bool) {
	if len(b) != 33 || b[0] != recordVersion {
		return summary{}, false
	}
	v := func(i int) uint64 { return binary.BigEndian.Uint64(b[1+8*i:]) }
	return summary{last: v(0), oldest: int64(v(1)), newest: int64(v(2)), readings: v(3)}, true
}

func (g *pendingGap) encode() []byte { return g.appendTo(nil) }

func (g *pendingGap) appendTo(b []byte) []byte {
	b = append(b, recordVersion)
	for _, v := range [...]uint64{g.From, g.To, g.Readings, uint64(g.Oldest), uint64(g.Newest)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	b = append(b, byte(len(g.Reason)))
	b = append(b, g.Reason...)
	return append(b, g.Stream...)
}

func parseGap(b []byte) (*pendingGap, bool) {
	if len(b) < 42 || b[0] != recordVersion || len(b) < 42+int(b[41]) {
		return nil, false
	}
	v := func(i int) uint64 { return binary.BigEndian.Uint64(b[1+8*i:]) }
	reason, stream := b[42:42+int(b[41])], b[42+int(b[41]):]
	g := &pendingGap{Gap: Gap{
		Stream: string(stream), From: v(0), To: v(1), Readings: v(2), Reason: string(reason),
		Oldest: int64(v(3)), Newest: int64(v(4)),
	}}
	return g, g.From > 0 && g.From <= g.To
}
