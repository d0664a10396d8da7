package protocols

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Schema names the tags that the readings of a batch refer to. It is stored
// once and outlives the configuration that it was made from, so that a batch
// can be decoded after the configuration has changed.
type Schema struct {
	Device string
	Tags   []SchemaTag
}

// SchemaTag is one tag of a Schema.
type SchemaTag struct {
	Name string
	Unit string // engineering unit; may be empty
}

// Batch is the readings of one scan, or of one OPC UA publish response: the
// unit that is buffered, forwarded and acknowledged. Readings are in
// ascending order of their Tag; a tag that is not in it did not change or
// was not read.
type Batch struct {
	Schema   *Schema
	Readings []Reading
	// Historical says that the readings were missed at their time and come
	// from the device's own memory. Newer ones may have gone out before.
	Historical bool
}

// ErrRecord is what a record or a schema that cannot be decoded gives.
var ErrRecord = errors.New("damaged batch record")

// The layout of a record, version 1. Numbers are unsigned varints unless
// said otherwise; positions count the readings of the record.
//
//	version, flags, number of readings
//	unless flagFull: per reading, its tag's distance to the last one's, less 1
//	if flagReasons: the table of reasons (number, then length and text of
//	    each); the number of readings that are not good; for each of them the
//	    distance to the last one's position, less 1, and reason<<1 | bad
//	if flagSource: per reading, its source time's difference to the last
//	    one's (signed varint); math.MinInt64 is not possible as a time, so
//	    "none" is written as the time 0
//	runs of values of one kind, for all readings but the bad ones: length,
//	    kind<<4 | width, values
//
// An array is its length, then kind<<4 | width and value of each element. An
// object is the same, with a name (length and text) before each.
const (
	recordVersion = 1

	flagFull    = 1 << 0
	flagReasons = 1 << 1
	flagSource  = 1 << 2
	// The batch is Historical. It was added to version 1: records without it are as they were.
	flagHistorical = 1 << 3

	maxRecordTags = 1 << 20
	maxArrayDepth = MaxDepth
)

// ID returns what a batch record calls s by: 64 bits of the hash of all that
// is in it.
func (s *Schema) ID() uint64 {
	sum := sha256.Sum256(AppendSchema(nil, s))
	return binary.BigEndian.Uint64(sum[:])
}

// AppendSchema appends s as bytes to dst.
func AppendSchema(dst []byte, s *Schema) []byte {
	dst = append(dst, recordVersion)
	dst = appendText(dst, s.Device)
	dst = binary.AppendUvarint(dst, uint64(len(s.Tags)))
	for _, t := range s.Tags {
		dst = appendText(dst, t.Name)
		dst = appendText(dst, t.Unit)
	}
	return dst
}

// DecodeSchema is the reverse of AppendSchema.
func DecodeSchema(data []byte) (*Schema, error) {
	r := recordReader{data: data}
	if v := r.byte(); v != recordVersion && r.err == nil {
		return nil, fmt.Errorf("%w: schema of version %d", ErrRecord, v)
	}
	s := &Schema{Device: string(r.bytes(r.count(math.MaxInt32)))}
	n := r.count(maxRecordTags)
	if n > len(r.data) {
		return nil, fmt.Errorf("%w: schema with %d tags in %d bytes", ErrRecord, n, len(r.data))
	}
	s.Tags = make([]SchemaTag, n)
	for i := range s.Tags {
		s.Tags[i].Name = string(r.bytes(r.count(math.MaxInt32)))
		s.Tags[i].Unit = string(r.bytes(r.count(math.MaxInt32)))
	}
	return s, r.err
}

// EncodeBatch appends b as a record to dst. It allocates nothing but what
// dst needs to grow.
func EncodeBatch(dst []byte, b *Batch) []byte {
	var flags byte
	if len(b.Readings) == len(b.Schema.Tags) {
		flags |= flagFull
	}
	if b.Historical {
		flags |= flagHistorical
	}
	notGood := 0
	for i := range b.Readings {
		if b.Readings[i].Quality != Good {
			notGood++
		}
		if b.Readings[i].Source != 0 {
			flags |= flagSource
		}
	}
	if notGood > 0 {
		flags |= flagReasons
	}
	dst = append(dst, recordVersion, flags)
	dst = binary.AppendUvarint(dst, uint64(len(b.Readings)))
	if flags&flagFull == 0 {
		last := int32(-1)
		for i := range b.Readings {
			dst = binary.AppendUvarint(dst, uint64(b.Readings[i].Tag-last-1))
			last = b.Readings[i].Tag
		}
	}
	if flags&flagReasons != 0 {
		dst = appendReasons(dst, b.Readings, notGood)
	}
	if flags&flagSource != 0 {
		last := int64(0)
		for i := range b.Readings {
			dst = binary.AppendVarint(dst, b.Readings[i].Source-last)
			last = b.Readings[i].Source
		}
	}
	return appendRuns(dst, b.Readings)
}

// appendReasons writes the table of reasons and who has them. Tables are
// short (a handful of codes), so they are searched from end to end.
func appendReasons(dst []byte, rs []Reading, notGood int) []byte {
	var table [16]Reason
	reasons := table[:0]
	index := func(why Reason) int {
		for i, r := range reasons {
			if r == why {
				return i
			}
		}
		return -1
	}
	for i := range rs {
		if rs[i].Quality != Good && index(rs[i].Reason) < 0 {
			reasons = append(reasons, rs[i].Reason)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(reasons)))
	for _, r := range reasons {
		dst = appendText(dst, string(r))
	}
	dst = binary.AppendUvarint(dst, uint64(notGood))
	last := -1
	for i := range rs {
		if rs[i].Quality == Good {
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(i-last-1))
		last = i
		code := uint64(index(rs[i].Reason)) << 1
		if rs[i].Quality == Bad {
			code |= 1
		}
		dst = binary.AppendUvarint(dst, code)
	}
	return dst
}

// appendRuns writes the values of all readings but the bad ones.
func appendRuns(dst []byte, rs []Reading) []byte {
	for i := 0; i < len(rs); {
		if rs[i].Quality == Bad {
			i++
			continue
		}
		kind, n, end := rs[i].Value.kind, 0, i
		var widest uint64
		for ; end < len(rs); end++ {
			if rs[end].Quality == Bad {
				continue
			}
			if rs[end].Value.kind != kind {
				break
			}
			widest |= magnitude(rs[end].Value)
			n++
		}
		w := widthOf(kind, widest)
		dst = binary.AppendUvarint(dst, uint64(n))
		dst = append(dst, byte(kind)<<4|w)
		for ; i < end; i++ {
			if rs[i].Quality != Bad {
				dst = appendValue(dst, rs[i].Value, w)
			}
		}
	}
	return dst
}

// magnitude returns a number that needs as many bits as v does (for signed
// ones, its zigzag form: small numbers of either sign are small).
func magnitude(v Value) uint64 {
	switch v.kind {
	case KindInt:
		return zigzag(v.num)
	case KindUint:
		return v.num
	case KindNone, KindBool, KindFloat32, KindFloat64, KindString, KindBytes, KindTime, KindArray, KindObject:
	}
	return 0
}

func zigzag(n uint64) uint64   { return n<<1 ^ uint64(int64(n)>>63) }
func unzigzag(n uint64) uint64 { return n>>1 ^ -(n & 1) }

// widthOf returns how many bytes each value of a run takes; 0 where they
// differ in length.
func widthOf(kind Kind, widest uint64) byte {
	switch kind {
	case KindBool:
		return 1
	case KindInt, KindUint:
		switch {
		case widest < 1<<8:
			return 1
		case widest < 1<<16:
			return 2
		case widest < 1<<32:
			return 4
		}
		return 8
	case KindFloat32:
		return 4
	case KindFloat64, KindTime:
		return 8
	case KindNone, KindString, KindBytes, KindArray, KindObject:
	}
	return 0
}

func appendValue(dst []byte, v Value, width byte) []byte {
	n := v.num
	if v.kind == KindInt {
		n = zigzag(n)
	}
	switch width {
	case 1:
		return append(dst, byte(n))
	case 2:
		return append(dst, byte(n), byte(n>>8))
	case 4:
		return binary.LittleEndian.AppendUint32(dst, uint32(n))
	case 8:
		return binary.LittleEndian.AppendUint64(dst, n)
	}
	switch v.kind {
	case KindString, KindBytes:
		return appendText(dst, v.str)
	case KindArray:
		elems := v.Elems()
		dst = binary.AppendUvarint(dst, uint64(len(elems)))
		for _, e := range elems {
			dst = appendElement(dst, e)
		}
	case KindObject:
		n := v.Len()
		dst = binary.AppendUvarint(dst, uint64(n))
		for i := range n {
			name, e := v.Field(i)
			dst = appendElement(appendText(dst, name), e)
		}
	case KindNone, KindBool, KindInt, KindUint, KindFloat32, KindFloat64, KindTime:
	}
	return dst
}

func appendElement(dst []byte, e Value) []byte {
	w := widthOf(e.kind, magnitude(e))
	return appendValue(append(dst, byte(e.kind)<<4|w), e, w)
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// DecodeBatch decodes a record that EncodeBatch made with the schema s into
// b, whose Readings are overwritten and their array used again. An error is
// an ErrRecord; b is then not to be used.
func DecodeBatch(b *Batch, data []byte, s *Schema) error {
	r := recordReader{data: data}
	version, flags := r.byte(), r.byte()
	if r.err == nil && version != recordVersion {
		return fmt.Errorf("%w: version %d", ErrRecord, version)
	}
	n := r.count(len(s.Tags))
	if r.err != nil {
		return r.err
	}
	if cap(b.Readings) < n {
		b.Readings = make([]Reading, n)
	}
	b.Schema, b.Readings, b.Historical = s, b.Readings[:n], flags&flagHistorical != 0
	r.tags(b.Readings, flags, len(s.Tags))
	if flags&flagReasons != 0 {
		r.reasons(b.Readings)
	}
	if flags&flagSource != 0 {
		last := int64(0)
		for i := range b.Readings {
			last += r.varint()
			b.Readings[i].Source = last
		}
	}
	r.runs(b.Readings)
	if r.err == nil && len(r.data) != 0 {
		return fmt.Errorf("%w: %d bytes too many", ErrRecord, len(r.data))
	}
	return r.err
}

// GoodReadings returns how many good readings a record holds, without decoding
// it; 0 for one that is damaged.
func GoodReadings(data []byte) int {
	r := recordReader{data: data}
	version, flags := r.byte(), r.byte()
	n := r.count(maxRecordTags)
	if r.err != nil || version != recordVersion {
		return 0
	}
	if flags&flagReasons == 0 {
		return n
	}
	if flags&flagFull == 0 {
		for range n {
			r.uvarint()
		}
	}
	for range r.count(n) {
		r.bytes(r.count(math.MaxInt32))
	}
	if notGood := r.count(n); r.err == nil {
		return n - notGood
	}
	return 0
}

// Good returns how many of the batch's readings are good.
func (b *Batch) Good() (n int) {
	for i := range b.Readings {
		if b.Readings[i].Quality == Good {
			n++
		}
	}
	return n
}

// recordReader takes a record apart. After the first error all that it
// returns is zero.
type recordReader struct {
	data []byte
	err  error
}

func (r *recordReader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrRecord, what)
	}
	r.data = nil
}

func (r *recordReader) byte() byte {
	if len(r.data) == 0 {
		r.fail("cut off")
		return 0
	}
	c := r.data[0]
	r.data = r.data[1:]
	return c
}

func (r *recordReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.fail("bad number")
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *recordReader) varint() int64 {
	v, n := binary.Varint(r.data)
	if n <= 0 {
		r.fail("bad number")
		return 0
	}
	r.data = r.data[n:]
	return v
}

// count reads a number that must be at most limit.
func (r *recordReader) count(limit int) int {
	v := r.uvarint()
	if v > uint64(limit) {
		r.fail("a count out of range")
		return 0
	}
	return int(v)
}

func (r *recordReader) bytes(n int) []byte {
	if n > len(r.data) {
		r.fail("cut off")
		return nil
	}
	s := r.data[:n]
	r.data = r.data[n:]
	return s
}

// tags clears the readings and sets their tags.
func (r *recordReader) tags(rs []Reading, flags byte, tags int) {
	if flags&flagFull != 0 {
		if len(rs) != tags {
			r.fail("not all tags of the schema")
		}
		for i := range rs {
			rs[i].reset(int32(i))
		}
		return
	}
	last := -1
	for i := range rs {
		last += 1 + r.count(tags)
		if last >= tags {
			r.fail("a tag that the schema does not have")
			return
		}
		rs[i].reset(int32(last))
	}
}

// reset makes r a reading of the tag without a value. Pointers are written
// only where there is one to be cleared: most readings have none, and the
// garbage collector watches every such write.
func (r *Reading) reset(tag int32) {
	if r.Value.str != "" || r.Value.list != nil || r.Reason != "" {
		*r = Reading{}
	}
	r.Value.num, r.Value.kind = 0, KindNone
	r.Source, r.Tag, r.Quality = 0, tag, Good
}

func (r *recordReader) reasons(rs []Reading) {
	n := r.count(len(rs))
	if n == 0 {
		r.fail("no reasons")
		return
	}
	table := make([]Reason, n)
	for i := range table {
		table[i] = internReason(r.bytes(r.count(math.MaxInt32)))
	}
	pos := -1
	for range r.count(len(rs)) {
		pos += 1 + r.count(len(rs))
		code := r.count(2*n - 1)
		if r.err != nil || pos >= len(rs) {
			r.fail("a reason for no reading")
			return
		}
		rs[pos].Reason, rs[pos].Quality = table[code>>1], Uncertain
		if code&1 != 0 {
			rs[pos].Quality = Bad
		}
	}
}

// internReason returns the text as a Reason, without allocating for those
// that a dead device repeats for each of its tags.
func internReason(text []byte) Reason {
	switch Reason(text) {
	case Timeout:
		return Timeout
	case Offline:
		return Offline
	}
	return Reason(text)
}

func (r *recordReader) runs(rs []Reading) {
	for i := 0; ; {
		for i < len(rs) && rs[i].Quality == Bad {
			i++
		}
		if i == len(rs) || r.err != nil {
			return
		}
		n := r.count(len(rs))
		kind, width := r.kind()
		if n == 0 {
			r.fail("an empty run")
			return
		}
		if width > 0 && n*int(width) > len(r.data) {
			r.fail("cut off")
			return
		}
		for ; n > 0; i++ {
			if i == len(rs) {
				r.fail("more values than readings")
				return
			}
			if rs[i].Quality == Bad {
				continue
			}
			if width > 0 {
				rs[i].Value.num, rs[i].Value.kind = r.number(kind, width), kind
			} else {
				rs[i].Value = r.longValue(kind, 0)
			}
			n--
		}
	}
}

func (r *recordReader) kind() (Kind, byte) {
	c := r.byte()
	kind, width := Kind(c>>4), c&15
	ok := kind <= KindObject
	switch kind {
	case KindInt, KindUint:
		ok = width == 1 || width == 2 || width == 4 || width == 8
	case KindNone, KindBool, KindFloat32, KindFloat64, KindString, KindBytes, KindTime, KindArray, KindObject:
		ok = width == widthOf(kind, 0)
	}
	if !ok {
		r.fail("a value of an unknown kind")
	}
	return kind, width
}

// value reads one value; where width is not 0, that many bytes must be there.
func (r *recordReader) value(kind Kind, width byte, depth int) Value {
	if width == 0 {
		return r.longValue(kind, depth)
	}
	return Value{kind: kind, num: r.number(kind, width)}
}

// number reads what a value of fixed width has for a number.
func (r *recordReader) number(kind Kind, width byte) uint64 {
	var n uint64
	switch width {
	case 1:
		n = uint64(r.data[0])
	case 2:
		n = uint64(binary.LittleEndian.Uint16(r.data))
	case 4:
		n = uint64(binary.LittleEndian.Uint32(r.data))
	default:
		n = binary.LittleEndian.Uint64(r.data)
	}
	r.data = r.data[width:]
	if kind == KindInt {
		n = unzigzag(n)
	}
	return n
}

// longValue reads a value whose length differs from value to value.
func (r *recordReader) longValue(kind Kind, depth int) Value {
	switch kind {
	case KindString, KindBytes:
		return Value{kind: kind, str: string(r.bytes(r.count(math.MaxInt32)))}
	case KindArray:
		elems := make([]Value, r.length(depth))
		for i := range elems {
			elems[i] = r.element(depth)
		}
		return Array(elems)
	case KindObject:
		fields := make([]Value, 2*r.length(depth))
		for i := 0; i < len(fields); i += 2 {
			fields[i] = String(string(r.bytes(r.count(math.MaxInt32))))
			fields[i+1] = r.element(depth)
		}
		return ObjectOf(fields)
	case KindNone, KindBool, KindInt, KindUint, KindFloat32, KindFloat64, KindTime:
	}
	return Value{}
}

// length reads how many elements an array or object has that is within depth
// others. Each takes a byte at the least.
func (r *recordReader) length(depth int) int {
	n := r.count(math.MaxInt32)
	if n > len(r.data) || depth >= maxArrayDepth {
		r.fail("an array out of range")
		return 0
	}
	return n
}

// element reads one element of an array or object that is within depth others.
func (r *recordReader) element(depth int) Value {
	kind, width := r.kind()
	if int(width) > len(r.data) {
		r.fail("cut off")
		return Value{}
	}
	return r.value(kind, width, depth+1)
}
