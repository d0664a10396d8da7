// Package configs is the configuration of Millrace: what may stand in the
// YAML file and in tag maps, reading and checking them with the position of
// every mistake, the defaults, a JSON Schema for editors, and what differs
// between two configurations when one is reloaded.
//
// One set of tables (keys.go, keys_device.go, keys_tag.go) says which keys
// there are. The decoder, the defaults, the suggestions and the schema all
// read those tables, so they cannot disagree.
//
// A load goes: YAML text → tree of nodes with positions and resolved
// references (syntax.go, reference.go) → drafts, by the tables (table.go) →
// checks that concern more than one key (check_*.go) → Config. Each step
// collects problems and goes on, so that all of them are shown at once.
package configs
