# Two commands set everything up: `make demo` and `make test`. Each brings what it needs.

CARGO ?= cargo
RUNTIME_DIR := .runtime
DKT := target/release/dkt

.DEFAULT_GOAL := help
.PHONY: help demo build test test-brokers check bench bench-torch bench-exchange runtime mosquitto brokers python clean

help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: build ## Run two agents on handwritten digits, with the exchange and without; results in runs/demo
	$(CARGO) run --release --locked --quiet -p dkt-agent -- testbed agent/examples/digits-lab.toml --out runs/demo

build: runtime ## Build target/release/dkt, with ONNX Runtime beside it
	$(CARGO) build --release --locked -p dkt-agent
	@test -n "$$ORT_DYLIB_PATH" || ln -sf ../../$(RUNTIME_DIR)/libonnxruntime.so target/release/libonnxruntime.so

test: runtime mosquitto python ## Run every test: units, and whole agents over a real mosquitto
	$(CARGO) test --workspace --locked

# The whole workspace, as in `test`: for one package cargo would choose other features and build the agent again.
test-brokers: runtime brokers ## Run the tests of the exchange over NATS and RabbitMQ
	$(CARGO) test --workspace --locked --features dkt-tests/other-brokers --test lab -- brokers::nats brokers::rabbitmq

check: ## Check format, lints and documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --quiet

bench: runtime ## Measure training steps; beside PyTorch if DKT_BENCH_PYTHON names a Python that has it
	$(CARGO) bench --locked -p dkt-agent --bench step

bench-torch: runtime ## Measure training steps beside PyTorch; DKT_BENCH_PYTHON names a Python that has it
	@test -n "$$DKT_BENCH_PYTHON" || { echo "bench-torch: set DKT_BENCH_PYTHON to a Python with PyTorch" >&2; exit 1; }
	@"$$DKT_BENCH_PYTHON" -c "import torch" || { echo "bench-torch: $$DKT_BENCH_PYTHON has no PyTorch" >&2; exit 1; }
	$(CARGO) bench --locked -p dkt-agent --bench step

bench-exchange: mosquitto ## Measure signed messages, and moving soft targets; beside Python if DKT_BENCH_PYTHON names one
	$(CARGO) bench --locked --workspace --bench exchange_refusal --bench exchange_cost

runtime: ## Bring the ONNX Runtime library, unless ORT_DYLIB_PATH names one
	@test -n "$$ORT_DYLIB_PATH" || deploy/fetch-onnxruntime.sh $(RUNTIME_DIR)

python: ## Bring the Python packages that tests run
	@tests/ensure-python.sh

mosquitto: ## Install mosquitto and what else the tests run, if it is missing
	@tests/ensure-programs.sh mosquitto openssl strace

brokers: mosquitto ## Install the other brokers that the exchange is tested with, if they are missing
	@tests/ensure-programs.sh nats-server rabbitmq-server

clean: ## Remove what was built; results in runs/ stay
	$(CARGO) clean
	rm -rf $(RUNTIME_DIR) .python
