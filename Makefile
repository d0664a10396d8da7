# `make` alone lists what there is to do here.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where `make deps` puts what the system's packages are too old for.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

# What the binary says of itself. A source tree without git can name both:
# make build VERSION=1.2.3 COMMIT=0123abc
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

# The same commit gives the same bytes: no cgo, no paths, no dates, and the
# instruction sets pinned.
BUILD_ENV := CGO_ENABLED=0 GOAMD64=v1 GOARM64=v8.0 GOARM=7
BUILD     := go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)'
PLATFORMS := amd64 arm64 armv7

# Packages tested side by side: the real brokers, PLCs and browsers of the
# tests need a share of a small machine too.
TEST_JOBS ?= 2
# More for `go test`, such as TESTFLAGS='-run TestReload -v'; and where.
TESTFLAGS ?=
PKG       ?= ./...
FUZZTIME  ?= 10s
# More for the bench program, such as BENCHFLAGS=-large, -buffer or -modbus.
BENCHFLAGS ?=

GOLANGCI_VERSION := v2.15.0
GOLANGCI_LINT    ?= .tools/golangci-lint-$(GOLANGCI_VERSION)/golangci-lint

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/millrace for this machine
	@$(BUILD_ENV) $(BUILD) -o bin/millrace ./cmd/millrace
	@echo "built bin/millrace $(VERSION)"

.PHONY: cross
cross: $(PLATFORMS:%=dist/millrace-linux-%) ## build dist/millrace-linux-{amd64,arm64,armv7}
	@cd dist && sha256sum $(PLATFORMS:%=millrace-linux-%) > SHA256SUMS

# Always handed to go, which knows what has changed.
.PHONY: $(PLATFORMS:%=dist/millrace-linux-%)
$(PLATFORMS:%=dist/millrace-linux-%): dist/millrace-linux-%:
	@GOOS=linux GOARCH=$(patsubst armv%,arm,$*) $(BUILD_ENV) $(BUILD) -o $@ ./cmd/millrace
	@echo "built $@ $(VERSION)"

.PHONY: demo
demo: build ## build, then show it all at work: simulated PLCs, a broker, the page
	@bin/millrace demo

.PHONY: deps
deps: ## install what the tests need beside Go (Debian; asks sudo only if something is missing)
	@.ci/deps

.PHONY: test
test: deps ## run all tests with the race detector
	@go vet $(PKG)
	@CGO_ENABLED=1 go test -race -p $(TEST_JOBS) -timeout 10m $(TESTFLAGS) $(PKG)
	@go test -run 'TestYear$$' $(TESTFLAGS) ./collector/connectivity # the whole year: with the race detector it takes minutes

.PHONY: lint
lint: $(GOLANGCI_LINT) ## run the linters, and check go.mod and go.sum
	@$(GOLANGCI_LINT) run $(PKG)
	@go mod tidy -diff
	@go mod verify

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## format the code (gofumpt, imports in three groups)
	@$(GOLANGCI_LINT) fmt

.tools/golangci-lint-$(GOLANGCI_VERSION)/golangci-lint:
	@echo "building golangci-lint $(GOLANGCI_VERSION) into .tools (once; some minutes)"
	@GOFLAGS= GOBIN=$(CURDIR)/$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

.PHONY: fuzz
fuzz: ## run each fuzz target for a while (FUZZTIME=10s)
	@.ci/fuzz $(FUZZTIME)

# Kills of the agent, and images of a disk after a power cut. Both tests log
# the seed of their choices: SEED gives it again.
KILLS ?= 5000
SEED  ?=

.PHONY: campaign
campaign: deps ## kill the agent KILLS=5000 times at random moments, and cut the power a tenth as often
	@MILLRACE_KILLS=$(KILLS) MILLRACE_SEED=$(SEED) CGO_ENABLED=1 go test -race -v -count 1 -timeout 0 -run TestKillMinusNineCampaign ./cmd/millrace
	@MILLRACE_CUTS=$$(($(KILLS) / 10)) MILLRACE_ROUNDS=$$(($(KILLS) / 100)) MILLRACE_SEED=$(SEED) CGO_ENABLED=1 go test -race -v -count 1 -timeout 0 -run 'TestPowerCut|TestKillMinusNine' ./buffer

# Answers of faulty Modbus devices, of which none may be taken for another.
ANSWERS ?= 1000000

.PHONY: answers
answers: ## have ANSWERS=1000000 answers of faulty Modbus devices looked at (some minutes)
	@MILLRACE_ANSWERS=$(ANSWERS) go test -v -count 1 -timeout 0 -parallel 32 -run NeverAWrongValue ./protocols/modbus | grep -v -e '^=== '

# Breaks of an OPC UA connection at random moments, of which none may lose a
# value or leave anything behind.
DROPS ?= 5000

.PHONY: soak
soak: ## break an OPC UA connection DROPS=5000 times at random moments (some minutes)
	@MILLRACE_DROPS=$(DROPS) MILLRACE_SEED=$(SEED) CGO_ENABLED=1 go test -race -v -count 1 -timeout 0 -run TestSoak ./protocols/opcua

RESTARTS ?= 100

.PHONY: restarts
restarts: deps ## restart the broker of a running agent RESTARTS=100 times at random moments, and spoil its line as often (some minutes)
	@MILLRACE_RESTARTS=$(RESTARTS) CGO_ENABLED=1 go test -race -v -count 1 -timeout 0 -run TestBrokerRestartsOften ./cmd/millrace
	@MILLRACE_TROUBLE=$(RESTARTS) CGO_ENABLED=1 go test -race -v -count 1 -timeout 0 -run 'TestTrouble|TestHalfOpen' ./protocols/mqtt

.PHONY: bench
bench: deps build ## measure the whole way end to end (writes bench.json), then the hot functions
	@go build -o bin/millrace-bench ./cmd/millrace-bench
	@bin/millrace-bench $(BENCHFLAGS)
	@go test -run '^$$' -bench . -benchmem -p 1 $(PKG) | { grep -v -e 'no test files' -e '^PASS$$' || true; }

.PHONY: cover
cover: deps ## show which code the tests reach (bin/cover.html)
	@mkdir -p bin
	@go test -p $(TEST_JOBS) -timeout 10m -coverpkg=./... -coverprofile=bin/cover.out $(TESTFLAGS) $(PKG)
	@go tool cover -html=bin/cover.out -o bin/cover.html
	@go tool cover -func=bin/cover.out | tail -n 1

.PHONY: clean
clean: ## remove what was built here (not .tools)
	@rm -rf bin dist bench.json
