package mqtt

import (
	"fmt"

	"millrace/protocols"
)

// Encoder makes of stored batches what the contract's data messages hold,
// without a broker: for exports. It is used by one goroutine.
type Encoder struct {
	gateway  string
	compiled map[uint64]*compiledSchema
	batch    protocols.Batch
}

// NewEncoder makes an Encoder for batches of a gateway. Without a name, the
// messages have no field gateway.
func NewEncoder(gateway string) *Encoder {
	return &Encoder{gateway: gateway, compiled: make(map[uint64]*compiledSchema)}
}

// AppendJSON appends the data message of r, as it was or will be sent; it is
// never marked as historical, which only its sending decides. s must be the
// schema that r names. The error says that r cannot be decoded.
func (e *Encoder) AppendJSON(dst []byte, r Record, s *protocols.Schema) ([]byte, error) {
	c := e.compiled[r.Schema]
	if c == nil {
		if len(e.compiled) >= maxSchemas {
			clear(e.compiled)
		}
		c = compileSchema(s, e.gateway, "")
		e.compiled[r.Schema] = c
	}
	if _, err := e.Readings(r, s); err != nil {
		return dst, err
	}
	return appendBatch(dst, &r, c, &e.batch, r.Time)
}

// Readings returns the readings of r, which are good until the next call.
func (e *Encoder) Readings(r Record, s *protocols.Schema) ([]protocols.Reading, error) {
	if err := protocols.DecodeBatch(&e.batch, r.Data, s); err != nil {
		return nil, fmt.Errorf("batch %d of stream %s: %w", r.Seq, r.Stream, err)
	}
	return e.batch.Readings, nil
}

// Told returns how a reading is told to the platform: whether its value is
// given, and the reason beside or instead of it.
func Told(r *protocols.Reading) (value bool, q protocols.Quality, why protocols.Reason) {
	switch {
	case !hasValue(r):
		return false, protocols.Bad, reasonOf(r)
	case r.Quality == protocols.Uncertain:
		return true, protocols.Uncertain, reasonOf(r)
	}
	return true, protocols.Good, ""
}

// AppendJSONValue appends v as it stands in a message. A float must be
// finite.
func AppendJSONValue(dst []byte, v protocols.Value) []byte { return appendValue(dst, v) }

// AppendMillis appends a time in nanoseconds since 1970 as milliseconds, with
// decimals only where it is finer.
func AppendMillis(dst []byte, nanos int64) []byte { return appendMillis(dst, nanos) }
