# What is needed beside Go is found or installed by scripts/with-postgres.

GO      ?= go
FUZZTIME ?= 20s
# The pattern "work" matches the packages of all modules in go.work.
PACKAGES ?= work

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## a real primary and two replicas, a workload, and servers that fail (30 s)
	@scripts/with-postgres sh -c '$(GO) build -buildvcs=false -o bin/pgherd ./cmd/pgherd && exec bin/pgherd demo $(DEMO)'

# -count 1: go test does not know that results depend on servers, and would show
# old ones.
.PHONY: test
test: ## all tests of all modules, against real servers, with the race detector
	PGHERD_TEST_REQUIRE=1 scripts/with-postgres $(GO) test -race -count 1 -p 2 -timeout 20m $(PACKAGES)

.PHONY: bench
bench: ## all benchmarks
	PGHERD_TEST_REQUIRE=1 scripts/with-postgres $(GO) test -run '^$$' -bench . -benchmem -p 1 -timeout 60m $(PACKAGES)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME, 20s by default
	scripts/with-postgres scripts/fuzz $(FUZZTIME)

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "gofmt -w these:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet $(PACKAGES)
	$(GO) tool staticcheck $(PACKAGES)
