# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
TORCH  ?= torch
VENV   := .venv
RUN    := $(VENV)/bin/python
VIEWER := pipeline/reporting/viewer

.PHONY: demo test test-faults fuzz lint docs pictures install viewer clean

demo: install
	$(RUN) -m pipeline.run configs/phantom.yaml

test: install lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal

# Runs of every method killed fifty times, and again at each point of a save; torchrun's workers killed. Some minutes.
test-faults: install
	$(RUN) -m pytest -m faults

# Damaged volumes, other ones at each call: fuzz EXAMPLES=100000 for longer.
fuzz: install
	FUZZ_EXAMPLES=$(or $(EXAMPLES),5000) $(RUN) -m pytest tests/test_fuzz.py

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) -m mypy

# The site of the documentation, in ./site; wrong links and docstrings are errors.
docs: install
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build
	@echo "open site/index.html"

# The documentation's pictures, of what `make demo` and a sweep left; wants Chromium, and `mlflow ui` beside it.
pictures: install
	$(RUN) docs/_pictures.py $(or $(FOLDER),runs/phantom) --sweep $(or $(SWEEP),runs/sweep)

install: $(VENV)/installed viewer

# torch first and on its own, so that TORCH can name another build: make demo TORCH="torch --index-url ..."
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[test,docs]"
	touch $@

# The report's interactive viewer, NiiVue, as the lock file names it. Without npm or its registry, reports have pictures.
viewer: $(VIEWER)/node_modules/.package-lock.json

$(VIEWER)/node_modules/.package-lock.json: $(VIEWER)/package-lock.json
	@npm ci --prefix $(VIEWER) --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error \
		|| echo "no interactive viewer in reports: npm is missing or failed; 'make viewer' tries again"

clean:
	rm -rf $(VENV) site $(VIEWER)/node_modules *.egg-info .pytest_cache .ruff_cache
