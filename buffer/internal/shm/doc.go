// Package shm keeps the buffer's memory in a file on a tmpfs, so that it
// outlives the process, however that ends: a kill, a panic, no memory left.
// Nothing is ever written to a disk for it. What a power cut takes, it takes
// from here too.
//
// A Region is the file as its process has it: mapped, and written to in place.
// All that it says is published after the bytes that it speaks of, and has
// checksums, so that what a process leaves at any instruction can be read: a
// Snapshot is what the next process finds. It reads the file and does not map
// it: nothing that somebody did to the file can make it fault.
//
// A mapped page for which the tmpfs has no memory is a SIGBUS. So all pages
// are allocated before they are touched, and where that fails, the caller
// gets nothing and uses its own memory.
package shm
