# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
TORCH  ?= torch
VENV   := .venv
RUN    := $(VENV)/bin/python

.PHONY: demo test lint install clean

demo: install
	$(RUN) -m pipeline.run configs/phantom.yaml

test: install lint
	$(RUN) -m pytest

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

install: $(VENV)/installed

# torch first and on its own, so that TORCH can name another build: make demo TORCH="torch --index-url ..."
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache
