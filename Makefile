# Two commands: `make demo` (search an architecture on real images) and `make test`.
# Each makes what it needs: a virtual environment in .venv with the packages of setup.py.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo train test test-fast lint docs clean

demo: $(VENV)/.installed
	$(BIN)/isnas search

train: $(VENV)/.installed
	$(BIN)/isnas train

# Everything, the slow tests too; a process per core, each with one thread.
test: $(VENV)/.installed lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test-fast: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The documentation as a site: build/docs/index.html.
docs: $(VENV)/.installed
	$(BIN)/python -m sphinx -W -q docs build/docs

$(VENV)/.installed: setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "isnas needs Python 3.10 or newer; choose one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
