# make run     install and run the main job
# make test    install and run the tests
# make test-slow  the tests left out of it: full-size networks, whole experiments
# make bench   time the hot pieces with pytest-benchmark; earlier figures stay in .benchmarks
# make nightly ARGS="--backend eager --backend compile"   doctor, verify, matrix, gate, report (docs/nightly.md)
# make lint    ruff's checks and formatting; of the workflows yamllint, their schema and zizmor
# make browser install Chromium where apt can, for the tests of the pages
# make setup   install only; EXTRAS=test,gpu,elpv on a machine with an NVIDIA GPU
PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXTRAS ?= test,onnx,elpv
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
COMMA := ,
STAMP := $(VENV)/.installed-$(subst $(COMMA),-,$(EXTRAS))

.PHONY: run test test-slow bench nightly lint browser setup clean

run: setup
	$(BIN)/python -m bench run --backend compile

# Two processes of one thread each: on two cores that is nearly twice as fast as one process of two.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Networks of the published size, and experiments on Square: some minutes, 8 GB of memory.
test-slow: setup
	$(BIN)/python -m pytest -m slow -s

# Named bench_*.py, so that only this target collects them.
bench: setup
	$(BIN)/python -m pytest tests/benchmarks -o python_files="bench_*.py" -o python_functions="bench_*" --benchmark-only \
		--benchmark-autosave --benchmark-columns=min,median,iqr,rounds --benchmark-sort=name

# What the workflows call; by hand, the same command on the same day goes on where it was. The shell splits ARGS into
# words and does nothing else with it: a workflow's input is in it. So no word of it can hold a space.
nightly: export ARGS := $(value ARGS)
nightly: setup
	@set -f; exec $(BIN)/python -m bench.nightly $$ARGS

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m yamllint --strict .github .yamllint.yml
	$(BIN)/python -m check_jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --no-progress --pedantic --no-config .github/workflows

# Needs no installation: tests look for these names, too (tests/browser.py).
browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		if command -v $$name > /dev/null; then echo "browser: $$(command -v $$name)"; exit 0; fi; \
	done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	else \
		echo "no Chromium found: install one (Debian: sudo apt-get install chromium)" >&2; exit 1; \
	fi

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python found: name one with 'make PYTHON=python3.12 ...'"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV)
