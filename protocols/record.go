package protocols

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
}
