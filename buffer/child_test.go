package buffer

// runChild is what the test binary does as a child process.
func runChild(string) int { return 1 }
