package sparkplug

// Payload is what a message of an edge node, or a command to one, holds
// (Sparkplug 3.0, 6.4.5).
type Payload struct {
	Timestamp uint64 // when it was sent, ms since 1970 UTC
	Seq       uint64 // 0 to 255
	UUID      string
	Body      []byte
	Metrics   []Metric

	HasTimestamp, HasSeq bool
}

// Metric is one metric of a payload.
type Metric struct {
	Name      string // empty: it goes by its alias
	Alias     uint64
	Timestamp uint64   // when it was acquired, ms since 1970 UTC
	Type      DataType // Unknown: not given, as in data
	Value     Value
	// Properties are in their order; nil: none.
	Properties []Property

	HasAlias, HasTimestamp      bool
	Historical, Transient, Null bool
}

// Value is a value as it stands in a message. What it means depends on the
// data type: see Value.As.
type Value struct {
	Field    Field
	Num      uint64 // of an int, a long, a float (its 32 bits), a double (its 64 bits) and a boolean
	Text     string // of a string and of bytes
	DataSet  *DataSet
	Template *Template
}

// Field says in which field of its message a value stands.
type Field uint8

// The fields that a value may stand in.
const (
	FieldNone Field = iota
	FieldInt
	FieldLong
	FieldFloat
	FieldDouble
	FieldBoolean
	FieldString
	FieldBytes
	FieldDataSet
	FieldTemplate
	FieldOther // the extensions, of which nothing is known
)

// Property is one property of a metric.
type Property struct {
	Key   string
	Type  DataType
	Null  bool
	Value Value
	Sets  [][]Property // of a PropertySet (one) and of a PropertySetList
}

// DataSet is a table.
type DataSet struct {
	Columns []string
	Types   []DataType
	Rows    [][]Value
}

// Template is the definition of a structure, or an instance of one.
type Template struct {
	Version    string
	Ref        string // of an instance: the name of its definition
	Definition bool
	Metrics    []Metric
	Parameters []Parameter
}

// Parameter is one parameter of a Template.
type Parameter struct {
	Name  string
	Type  DataType
	Value Value
}
