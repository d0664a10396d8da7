package mqtt

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"millrace/protocols"
)

// format turns what an uplink is given into messages: what stands in their
// topics and bodies, nothing of when they are sent.
type format interface {
	// status makes the retained message that says whether the gateway is
	// connected; the one of kind broken is the last will.
	status(kind statusKind) outgoing
	// record appends the data message of r to dst, and returns its topic, and how
	// much of it passes the filter. Its error says that r cannot be decoded, or is
	// errNothing.
	record(dst []byte, r Record) (topic string, body []byte, n passed, err error)
	// gap appends the notice of g to dst, and returns its topic.
	gap(dst []byte, g Gap) (topic string, body []byte)
	// state makes the retained message of a device's state.
	state(d DeviceState) outgoing
	// topic is one of the gateway's, or of a device's, below the gateway's level.
	topic(name string) string
}

// statusKind is what a status message says.
type statusKind uint8

const (
	statusOnline  statusKind = iota
	statusStopped            // the agent was stopped, and said so
	statusBroken             // the broker says it, when the connection ends without a word
)

// outgoing is a message that is made whole, and rarely.
type outgoing struct {
	topic string
	body  []byte
}

// maxSchemas bounds the compiled schemas that are kept; a schema is one
// interval group of one device.
const maxSchemas = 8192

// jsonFormat is the contract's format json, version 1.
type jsonFormat struct {
	prefix  string // topic/group/gateway/
	gateway string
	version string
	schema  func(id uint64) (*protocols.Schema, error)
	extra   func() map[string]any
	now     func() time.Time
	filter  *Filter

	mu       sync.Mutex // guards what follows, which is used anew for every batch
	compiled map[uint64]*compiledSchema
	batch    protocols.Batch
}

func newJSONFormat(o *Options) *jsonFormat {
	return &jsonFormat{
		prefix:   o.Topic + "/" + o.Group + "/" + o.Gateway + "/",
		gateway:  o.Gateway,
		version:  o.Version,
		schema:   o.Schema,
		extra:    o.Status,
		now:      o.Now,
		filter:   &o.Filter,
		compiled: make(map[uint64]*compiledSchema),
	}
}

func (f *jsonFormat) record(dst []byte, r Record) (topic string, body []byte, n passed, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.compile(r.Schema)
	if err != nil {
		return "", dst, n, err
	}
	if c.passes.nothing() {
		return "", dst, passed{filtered: protocols.GoodReadings(r.Data)}, errNothing
	}
	if err := protocols.DecodeBatch(&f.batch, r.Data, c.whole); err != nil {
		return "", dst, n, fmt.Errorf("batch %d of stream %s: %w", r.Seq, r.Stream, err)
	}
	some, n := c.passes.applyCounted(&f.batch)
	if !some {
		return "", dst, n, errNothing
	}
	body, err = appendBatch(dst, &r, c, &f.batch, f.now().UnixMilli())
	return c.topic, body, n, err
}

func (f *jsonFormat) compile(id uint64) (*compiledSchema, error) {
	if c, ok := f.compiled[id]; ok {
		return c, nil
	}
	s, err := f.schema(id)
	if err != nil {
		return nil, fmt.Errorf("schema %016x: %w", id, err)
	}
	if len(f.compiled) >= maxSchemas {
		clear(f.compiled)
	}
	passes := f.filter.schema(s)
	c := compileSchema(passes.schema, f.gateway, f.prefix+s.Device+"/data")
	c.whole, c.passes = s, passes
	f.compiled[id] = c
	return c, nil
}

// appendHead appends the beginning that all messages but data have.
func (f *jsonFormat) appendHead(dst []byte) []byte {
	dst = append(dst, `{"v":1,"gateway":`...)
	return appendString(dst, f.gateway)
}

func (f *jsonFormat) gap(dst []byte, g Gap) (topic string, body []byte) {
	dst = f.appendHead(dst)
	dst = append(dst, `,"stream":`...)
	dst = appendString(dst, g.Stream)
	dst = append(dst, `,"gap":{"from":`...)
	dst = strconv.AppendUint(dst, g.From, 10)
	dst = append(dst, `,"to":`...)
	dst = strconv.AppendUint(dst, g.To, 10)
	dst = append(dst, `,"readings":`...)
	dst = strconv.AppendUint(dst, g.Readings, 10)
	dst = append(dst, `,"reason":`...)
	dst = appendString(dst, g.Reason)
	dst = append(dst, `,"oldest":`...)
	dst = strconv.AppendInt(dst, g.Oldest, 10)
	dst = append(dst, `,"newest":`...)
	dst = strconv.AppendInt(dst, g.Newest, 10)
	return f.prefix + "gap", append(dst, "}}"...)
}

// stateTopic is where a device's state is retained.
func stateTopic(device string) string { return device + "/state" }

func (f *jsonFormat) topic(name string) string { return f.prefix + name }

func (f *jsonFormat) state(d DeviceState) outgoing {
	dst := f.appendHead(nil)
	dst = append(dst, `,"device":`...)
	dst = appendString(dst, d.Device)
	dst = append(dst, `,"state":`...)
	dst = appendString(dst, d.State)
	dst = append(dst, `,"since":`...)
	dst = strconv.AppendInt(dst, d.Since.UnixMilli(), 10)
	dst = append(dst, `,"reason":`...)
	dst = appendString(dst, d.Reason)
	return outgoing{topic: f.topic(stateTopic(d.Device)), body: append(dst, '}')}
}

func (f *jsonFormat) status(kind statusKind) outgoing {
	dst := f.appendHead(nil)
	switch kind {
	case statusOnline:
		dst = append(dst, `,"online":true,"ts":`...)
		dst = strconv.AppendInt(dst, f.now().UnixMilli(), 10)
		dst = append(dst, `,"version":`...)
		dst = appendString(dst, f.version)
		dst = f.appendExtra(dst)
	case statusStopped:
		dst = append(dst, `,"online":false,"ts":`...)
		dst = strconv.AppendInt(dst, f.now().UnixMilli(), 10)
		dst = append(dst, `,"reason":"stopped"`...)
	case statusBroken:
		// No time: the will is written long before the connection breaks.
		dst = append(dst, `,"online":false,"reason":"connection_lost"`...)
	}
	return outgoing{topic: f.prefix + "status", body: append(dst, '}')}
}

// appendExtra appends the status fields that the program adds, sorted. One
// that JSON cannot hold, or that would stand there twice, is left out.
func (f *jsonFormat) appendExtra(dst []byte) []byte {
	if f.extra == nil {
		return dst
	}
	fields := f.extra()
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		switch name {
		case "v", "gateway", "online", "ts", "version":
			continue
		}
		value, err := json.Marshal(fields[name])
		if err != nil {
			continue
		}
		dst = append(dst, ',')
		dst = appendString(dst, name)
		dst = append(dst, ':')
		dst = append(dst, value...)
	}
	return dst
}
