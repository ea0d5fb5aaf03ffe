# Everything a person types in this folder. `make demo` plays a film; `make test` is what CI runs.

export PATH := $(HOME)/.cargo/bin:$(PATH)

CARGO ?= cargo
setup := packaging/setup
modules := packaging/node_modules/.package-lock.json
page := packaging/page/dist/index.html
page_sources := $(shell find packaging/page/src packaging/page/build.mjs packaging/page/package.json -type f)

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: demo
demo: ## Set up, build in release, and play the demo on loopback
	@$(setup)/need.sh demo
	@$(MAKE) --silent $(page)
	@$(CARGO) build --release --locked -p appliance
	@exec target/release/castellum demo

.PHONY: test
test: setup lint ## Set up and run every test, the browser tests included
	CASTELLUM_NO_SKIP=1 $(CARGO) test --workspace --locked --no-fail-fast
	@$(MAKE) --silent test-ways
	@packaging/tests/fuzz.sh

# What may never show in a byte: each is tried with the suites that compare bytes and disturb files. The two tests
# left out choose their own way. Of the whole workspace, as `make test` is: of one package, cargo chooses other features of
# libraries and builds all anew.
ways := 'ORIGIN__CIPHERS=portable ORIGIN__STORAGE__COLD=blocking' \
	'ORIGIN__STORAGE__MODE=read ORIGIN__STORAGE__COLD=auto' \
	'ORIGIN__STORAGE__MODE=read ORIGIN__STORAGE__COLD=blocking'

.PHONY: test-ways
test-ways: ## Run the tests of bytes and faults with every way to read and to encrypt
	@for way in $(ways); do \
		echo "with $$way"; \
		TRIED_SETTINGS="$$way" CASTELLUM_NO_SKIP=1 $(CARGO) test --workspace --locked --test bytes --test faults -- \
			--skip cold_bytes_are_the_same --skip a_mezzanine_of_another_user || exit 1; \
	done

# What the origin is held against. NGINX_QUIC=FILE adds the rows of HTTP/3; BENCH='--rows tls --json FILE' picks and keeps.
.PHONY: bench
bench: ## Measure the origin beside nginx and against its goals, on two idle cores
	@$(setup)/need.sh bench
	@loadtest/bench/corpus.sh target/bench/media
	@$(CARGO) build --release --locked -p appliance -p loadtest
	@target/release/loadtest bench --media target/bench/media $(BENCH)

.PHONY: lint
lint: $(page) ## Formatting and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings

.PHONY: setup
setup: ## Install what the tests need: as root by itself, otherwise it says what is missing
	@$(setup)/need.sh test
	@$(MAKE) --silent $(page)
	@$(setup)/python.sh

.PHONY: page
page: $(page) ## Build the player page that the binary embeds

$(page): $(modules) $(page_sources)
	@npm run --silent --prefix packaging --workspace page build

# npm writes this file last, so it stands for a whole installation.
$(modules): packaging/package-lock.json packaging/.npmrc
	@npm ci --silent --prefix packaging
	@touch $@

.PHONY: deb
deb: ## Build the Debian package into target/deb
	@$(setup)/need.sh deb
	@$(MAKE) --silent $(page)
	@$(CARGO) build --release --locked -p appliance
	@packaging/deb/build.sh target/release/castellum target/deb

# A static binary of its own: from scratch there is no C library to load.
triple = $(shell rustc -vV | sed -n 's/^host: //p')
.PHONY: image
image: ## Build the container image castellum:latest, with buildah
	@$(setup)/need.sh image
	@$(MAKE) --silent $(page)
	@RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --release --locked -p appliance --target $(triple)
	@packaging/container/build.sh target/$(triple)/release/castellum castellum:latest

.PHONY: media
media: ## Make the test media (target/test-media) that the tests make by themselves
	@$(setup)/need.sh test
	@packaging/tests/media/make-test-media.sh

.PHONY: clean
clean: ## Remove everything that was built or installed here
	rm -rf target packaging/node_modules packaging/page/dist
