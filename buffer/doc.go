// Package buffer is the store and forward between the field and the
// platforms: the only place where readings wait.
//
// Records are opaque to it. They are appended to a tail in memory; a writer
// goroutine commits to segment files what no acknowledgement of all uplinks
// made needless within the commit interval. Every uplink has a place of its
// own in the order (a cursor) that only acknowledgements move, and a
// forwarder that hands records and gap notices to its Publisher; with
// LiveFirst by two lanes (lane.go), so that new records overtake a backlog. A
// record
// that was appended is acknowledged by every uplink or announced to it in a
// Gap.
//
// The memory is a file on a tmpfs (SharedMemoryFile): what only it held when the process died is
// written to segments by the next start. A power cut takes it.
//
// The directory holds:
//
//   - lock: held while a process uses the directory
//   - state.db: streams, cursors, gaps to be announced, summaries of the
//     segments, and small values of others (bbolt)
//   - ORDINAL-FIRST-STREAM.seg: a segment, the records of one stream from
//     seq FIRST on (bbolt, append only, unlinked as a whole)
//   - ORDINAL-FIRST-STREAM.raw: a segment that is damaged; its chunks are
//     looked for without bbolt, and it is set aside when it has been drained
//   - damaged-N-NAME: files that could not be read, kept for a look at them
//     as far as the size limit allows
//   - agent.sock: the agent's, for a look at the buffer while it runs; not
//     this package's
//   - opening: names the file that bbolt is opening; one that is found there
//     at a start killed the agent, and bbolt does not see it again
package buffer
