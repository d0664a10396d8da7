//go:build race

package connectivity_test

// yearDays: the race detector makes a year take two minutes; make test runs
// the whole of it without.
const yearDays = 45
