# make run     install and run the main job
# make test    install and run the tests
# make test-slow  the tests left out of it: full-size networks, whole experiments
# make bench   time the hot pieces with pytest-benchmark; earlier figures stay in .benchmarks
# make setup   install only
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test test-slow bench setup clean

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

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python found: name one with 'make PYTHON=python3.12 ...'"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -c constraints.txt -e ".[test,onnx]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV)
