package modbus

import (
	"fmt"
	"testing"
	"time"
)

// settingsOf writes a line as the settings of its URL.
func settingsOf(l line) string {
	parity := map[byte]string{'N': "none", 'E': "even", 'O': "odd"}[l.parity]
	s := fmt.Sprintf("baud=%d&parity=%s&stop=%d", l.baud, parity, l.stop)
	if l.rs485.on {
		rts := "high"
		if l.rs485.low {
			rts = "low"
		}
		s += fmt.Sprintf("&rs485=on&rts=%s&rts_before=%d&rts_after=%d", rts, l.rs485.before.Milliseconds(), l.rs485.after.Milliseconds())
	}
	return s
}

func TestLineTimes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		line          line
		char, silence time.Duration // in microseconds
	}{
		{line{baud: 9600, parity: 'N', stop: 1}, 1041, 3645},
		{line{baud: 9600, parity: 'E', stop: 1}, 1145, 4010},
		{line{baud: 9600, parity: 'N', stop: 2}, 1145, 4010},
		{line{baud: 9600, parity: 'O', stop: 2}, 1250, 4375},
		{line{baud: 19200, parity: 'E', stop: 1}, 572, 2005},
		{line{baud: 38400, parity: 'E', stop: 1}, 286, 1750}, // above 19,200 the silence does not get shorter
		{line{baud: 115200, parity: 'N', stop: 1}, 86, 1750},
	}
	for _, tc := range tests {
		if char, silence := tc.line.char().Microseconds(), tc.line.silence().Microseconds(); char != int64(tc.char) || silence != int64(tc.silence) {
			t.Errorf("%s: a character takes %d µs and the silence %d µs, want %d and %d", tc.line, char, silence, tc.char, tc.silence)
		}
	}
}

func TestLinesThatDifferLookDifferent(t *testing.T) {
	t.Parallel()
	seen := map[string]line{}
	for _, baud := range []int{9600, 19200} {
		for _, parity := range []byte{'N', 'E', 'O'} {
			for _, stop := range []int{1, 2} {
				for _, r := range []rs485{{}, {on: true}, {on: true, low: true}, {on: true, before: 1e6}, {on: true, after: 1e6}, {on: true, low: true, after: 2e6}} {
					l := line{baud, parity, stop, r}
					if other, ok := seen[l.String()]; ok {
						t.Errorf("%+v and %+v are both %s", l, other, l)
					}
					seen[l.String()] = l
				}
			}
		}
	}
}
