//go:build !linux

package shm

import (
	"errors"
	"os"
)

// Path fails: what the region needs is Linux's.
func Path(string, string) (string, error) { return "", errors.ErrUnsupported }

func createMapped(string, int, int) (*os.File, []byte, error) { return nil, nil, errors.ErrUnsupported }

func unmap([]byte) error { return nil }

func openOwn(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func allocate(*os.File, int, int) error { return errors.ErrUnsupported }

func punch(*os.File, int, int) error { return errors.ErrUnsupported }

func openOf(string, string) (*os.File, error) { return nil, errors.ErrUnsupported }
