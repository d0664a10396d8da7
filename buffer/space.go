package buffer

import "golang.org/x/sys/unix"

// freeSpace returns how many bytes the file system of dir has left for us;
// -1: it does not say.
func freeSpace(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return -1
	}
	return int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // the types differ between platforms
}
