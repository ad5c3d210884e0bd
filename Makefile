# The front door to building and testing. What takes more than a line is a script under .ci/.

.DEFAULT_GOAL := help
.PHONY: help check fmt lint test bench bench-docs faults fuzz binaries images redis-image clean-images
.NOTPARALLEL:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

check: ## compile everything, without producing binaries
	cargo check --workspace --all-targets

fmt: ## format the code
	cargo fmt --all

lint: ## formatting, files that are never compiled, clippy and documentation, every warning an error
	cargo fmt --all --check
	@.ci/declared
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

test: ## get what the tests need (Redis, Docker, promtool, images), then run them all
	@.ci/test

bench: ## measure it on this machine, in some six minutes; ARGS=--quick takes one, ARGS=--help lists more
	@.ci/bench $(ARGS)

bench-docs: ## the same, and write tables and plot into docs/benchmarks.md
	@.ci/bench --page docs/benchmarks.md --plot docs/goodput.svg $(ARGS)

faults: ## kill, stop, restart and cut parts of a cluster under load for ten minutes; ARGS=--report measures, ARGS=--help lists more
	@.ci/faults $(ARGS)

fuzz: ## give the parsers of tensors arbitrary bytes, ten minutes for each target; SECONDS_EACH=60 takes less
	@.ci/fuzz $(ARGS)

binaries: ## the static release binaries, as they ship
	@.ci/binaries

images: ## the Docker images, from nothing but cargo
	@.ci/images

redis-image: ## skysail/redis:local, for the tests, from the installed redis-server
	@tests/images/redis/build

clean-images: ## remove every image that this repository builds
	@docker image ls --quiet --filter label=org.opencontainers.image.vendor=Skysail \
		| sort --unique | xargs --no-run-if-empty docker image rm --force
