package buffer

import "fmt"

// checkVersion compares what a file says of its format with the one that this
// version reads.
func checkVersion(value []byte, reads byte) error {
	switch {
	case len(value) != 1:
		return fmt.Errorf("%w: it has no version", errFormat)
	case value[0] != reads:
		return fmt.Errorf("%w (format %d, this one reads %d)", ErrVersion, value[0], reads)
	}
	return nil
}
