# Every target sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs bench setup clean

demo: setup
	$(BIN)/siamese-verify demo

test: setup
	$(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist worksteal

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python .ci/check_names.py

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: setup
	for benchmark in benchmarks/*.py; do $(BIN)/python $$benchmark || exit 1; done

setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --progress-bar on --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist site .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
