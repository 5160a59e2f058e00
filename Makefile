# What is needed beside Go is found or installed by scripts/with-postgres.

GO      ?= go
FUZZTIME ?= 20s
# The pattern "work" matches the packages of all modules in go.work.
PACKAGES ?= work
# Packages that read many texts. With the race detector, which has nothing to find
# there, they read a sample of them.
WHOLE    ?= ./routing ./integration/grammar ./integration/oracle

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## a real primary and two replicas, a workload, and servers that fail (30 s)
	@scripts/with-postgres sh -c '$(GO) build -buildvcs=false -o bin/pgherd ./cmd/pgherd && exec bin/pgherd demo $(DEMO)'

# -count 1: go test does not know that results depend on servers, and would show
# old ones. -p 1: a package has servers, and waits for them no longer than users
# would. -vet=off: make lint does that, and more.
.PHONY: test
test: ## all tests of all modules, against real servers, with the race detector; some in containers, too
	$(GO) run ./integration/cmd/suite -short
	PGHERD_TEST_REQUIRE=1 scripts/with-postgres $(GO) test -race -count 1 -vet=off -p 1 -timeout 20m $(PACKAGES)
	PGHERD_TEST_REQUIRE=1 scripts/with-postgres $(GO) test -count 1 -vet=off -p 2 -timeout 20m $(WHOLE)

.PHONY: images
images: ## images of PostgreSQL 15 and 17 from Debian's packages, for where no registry has any
	integration/images/build bookworm pgherd-postgres:15
	integration/images/build trixie pgherd-postgres:17

.PHONY: integration
integration: images ## what needs servers, on local ones and in containers of both images, and a table (20 min)
	scripts/with-postgres $(GO) run ./integration/cmd/suite

.PHONY: patroni
patroni: ## Patroni replaces leaders under an application that writes (10 min)
	integration/images/build bookworm pgherd-patroni:15 patroni python3-etcd etcd-server etcd-client
	$(GO) test -run TestPatroni -v -count 1 -vet=off -timeout 25m ./integration -patroni

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
