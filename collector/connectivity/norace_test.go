//go:build !race

package connectivity_test

const yearDays = 365
