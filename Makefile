# Each target makes the environment that it needs; nothing has to be set up first.
#   make demo        a posterior, an ensemble and a certificate, in one report
#   make test        fast tests and doctests
#   make test-all    the slow and statistical ones too
#   make check       format, lint, types and import direction
#   make docs        the documentation, warnings as errors
#   make bench       all benchmarks, or one: make bench NAME=dims
#   make wheel       the file to install without a checkout, and the sources, in dist/
#   make clean       remove caches and outputs, keep .venv

# The first Python that is new enough and can make environments.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
WORKERS ?= 2
TEST_ARGS ?=
BENCH_ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check -c constraints.txt
PYTEST := $(PY) -m pytest -n $(WORKERS) --dist worksteal

# What NAME stands for when it is empty: every benchmark, but not their helpers.
BENCHES := $(filter-out tables _%,$(basename $(notdir $(wildcard benchmarks/*.py))))

.PHONY: demo test test-all check docs bench wheel clean

demo: $(VENV)/.demo
	$(PY) inference/demo.py models/eight_schools.py models/digits_classifier.py \
		--seed 1 --out demo_report

test: $(VENV)/.dev
	$(PYTEST) $(TEST_ARGS)

test-all: $(VENV)/.dev
	$(PYTEST) -m "" $(TEST_ARGS)

check: $(VENV)/.dev
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m pyright
	$(VENV)/bin/lint-imports

docs: $(VENV)/.docs
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.bench
	set -e; for name in $(or $(NAME),$(BENCHES)); do \
		$(PY) benchmarks/$$name.py $(BENCH_ARGS); done
	$(PY) benchmarks/tables.py

wheel: | $(PY)
	$(PIP) build
	$(PY) -m build --outdir dist .

clean:
	rm -rf build dist demo_report docs/_build .pytest_cache .ruff_cache .hypothesis .import_linter_cache htmlcov
	rm -f .coverage .coverage.*
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# One stamp for each set of extras, made again when the requirements change.
$(VENV)/.%: pyproject.toml constraints.txt | $(PY)
	$(PIP) -e '.[$*]'
	touch $@

$(PY):
	@test -n "$(PYTHON)" || { echo "make: found no Python 3.11 or newer with venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
