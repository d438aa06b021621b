# Millrace: build, run, test, measure. `make` alone lists the targets.

# The version is stamped from git; a tarball has none and says "dev".
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X millrace/internal/app.version=$(VERSION)

# Data of `make run`.
DATA ?= ./millrace-data
# Further arguments of `make run`, for example ARGS="--listen :8080".
ARGS ?=
# Most time for one package's tests.
TEST_TIMEOUT ?= 20m
# Kills of `make test` and `make torture`.
TEST_KILLS ?= 10
COUNT ?= 200
# Time for each fuzz target of `make fuzz`.
FUZZTIME ?= 30s
# Arguments of `make bench`, for example BENCH="-only ingest50k".
BENCH ?=
# Linter, run from source: nothing is installed.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

GO ?= go

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z-]*:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/millrace (static, no C compiler needed)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/millrace ./cmd/millrace

.PHONY: run
run: build ## Build and run the server with its demo shop and data in ./millrace-data
	bin/millrace serve --demo --data $(DATA) $(ARGS)

.PHONY: cluster
cluster: ## Build and start three instances on PostgreSQL, Redis and NATS behind nginx, in the background (PORT=8080)
	$(GO) run ./scripts/cluster up

.PHONY: cluster-down
cluster-down: ## Stop the cluster and remove its data (KEEP=1 keeps it)
	$(GO) run ./scripts/cluster down

.PHONY: test
test: ## Run every test with the race detector, crash tests included
	TORTURE_KILLS=$(TEST_KILLS) $(GO) test -race -timeout $(TEST_TIMEOUT) ./...

.PHONY: lint
lint: ## Check format, vet, staticcheck and the module files
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) mod verify
	$(GO) mod tidy -diff

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s) each
	GO="$(GO)" scripts/fuzz.sh $(FUZZTIME)

.PHONY: torture
torture: ## Kill the real server COUNT (200) times under load and check what it kept
	TORTURE_KILLS=$(COUNT) $(GO) test -count=1 -v -timeout 4h ./internal/torture/...

.PHONY: bench
bench: build ## Measure: the packages, then the whole against its baselines (BENCH="-only NAME")
	$(GO) test -run '^$$' -bench . -benchmem ./internal/...
	$(GO) run ./bench $(BENCH)

.PHONY: docs
docs: ## Write the generated pages: docs/configuration.md, and the saga in docs/architecture.md
	$(GO) run ./cmd/millrace config reference --format markdown > docs/configuration.md
	$(GO) test ./internal/order -run TestTheDocumentation -update

.PHONY: clean
clean: ## Remove what was built; data stays
	rm -rf bin
