package main

import (
	"context"
	"encoding/json"
	"runtime"
)

func cmdVersion(_ context.Context, t terminal, args []string) int {
	fs := flags(t, "version", "version [--json]", "Says which version this is.")
	asJSON := fs.Bool("json", false, "for programs")
	if code, ok := parse(t, fs, args); !ok {
		return code
	}
	if !*asJSON {
		t.printf("millrace %s\ncommit %s\n%s %s/%s\n", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return exitDone
	}
	err := json.NewEncoder(t.out).Encode(map[string]string{
		"version": version, "commit": commit, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
	})
	if err != nil {
		t.errorf("millrace version: %v\n", err)
		return exitFailed
	}
	return exitDone
}
