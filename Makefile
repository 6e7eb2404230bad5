# make install what runs, in .venv
# make demo    the whole job on the sample that ships: build, train, evaluate (six minutes from nothing)
# make site-demo   a page in public/ that searches the demo's pictures in the browser alone; downloads two libraries of npm
# make test    the test suite
# make check   what CI runs first: style, types, import directions, the site, tests
# make slower  tests that take long: the installed wheel runs the sample, kills, exports (two minutes; CI runs it)
# make docs    write the generated tables of docs/: architecture, captions, catalog, images, recipes, translation
# make site    the documentation as a site in site/; fails on broken links
# make real    slower proofs on real upstream samples, where they are present
# make bench   all benchmarks, quick; those whose data or GPU is missing say so; fails at the end if one was short
# make bench-full   all benchmarks in full, hours, and docs/benchmarks.md; goes on where it was stopped, from bench-full/
# make torture builds killed at 200 random moments and at every failpoint, full and failing disks (20 minutes)
# make crash-matrix   a Prefect server, its worker, runs and a Dask cluster killed, cancelled and starved (15 minutes)
# Each sets up .venv by itself on a fresh machine, with uv; PYTHON=python3.13 picks another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.base
READY := $(VENV)/.ready
# Each process would compile the project anew where Python may not write bytecode.
COMPILE := $(BIN)/python -m compileall -qq -j 0 vernaclip flows translation cleaning training data_catalog
OLDEST_DUCKDB := $(VENV)/duckdb-1.4

.PHONY: install demo site-demo test slower check lint docs site real bench bench-full torture crash-matrix setup clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

install: $(BASE)

setup: $(READY)

# What runs: enough for the demo.
$(BASE): pyproject.toml install.py
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON): install Python 3.11 or newer, or name one: make PYTHON=python3.13" >&2; exit 1; }
	$(PYTHON) install.py .
	$(COMPILE)
	touch $@

$(READY): $(BASE)
	$(PYTHON) install.py '.[dev]'
	touch $@

# Beside the newest, where tests find it.
$(OLDEST_DUCKDB): | $(READY)
	$(BIN)/pip install --quiet --no-deps --target $@ 'duckdb>=1.4,<1.5'

demo: $(BASE)
	$(BIN)/vernaclip run scenes --root demo-catalog

site-demo: $(READY)
	[ -f demo-catalog/models/scenes/current.json ] || $(BIN)/vernaclip run scenes --root demo-catalog
	$(BIN)/vernaclip export-site scenes --root demo-catalog --title "Scene disegnate" --credits "Drawn by vernaclip, in the public domain" --out public

test: $(READY)
	$(COMPILE) tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 15

slower: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 3 --dist loadgroup -m slower $$(grep -rl "mark.slower" tests --include="*.py")

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint site test

# Tests compare these pages with the code; run as programs, they write them.
docs: $(READY)
	$(BIN)/python tests/flows/test_docs_tables.py

site: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

real: $(READY) $(OLDEST_DUCKDB)
	$(BIN)/pytest -m "real_data or slow or slower or hypothesis" --hypothesis-profile thorough --override-ini "addopts=--import-mode=importlib --strict-markers --strict-config"

bench: $(READY)
	$(BIN)/python benchmarks/run_all.py --quick

# BENCH="--before CHECKOUT --teacher FOLDER" compares with earlier code, and has the benchmarks that need a model.
bench-full: $(READY)
	$(BIN)/python benchmarks/run_all.py --keep bench-full --write docs/benchmarks.md $(BENCH)

torture: $(READY)
	$(BIN)/python tests/torture/torture.py

crash-matrix: $(READY)
	$(BIN)/pytest -m slow tests/flows/test_crash_matrix.py tests/flows/test_dask_build.py tests/flows/test_services.py

clean:
	rm -rf $(VENV) demo-catalog public site
