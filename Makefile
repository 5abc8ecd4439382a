# make run      the dashboard on http://localhost:8501 (PORT=… to change); it prepares the demo models itself
# make test     set-up for the tests, checks, then every test that needs no GPU
# make check    formatting, lint and types
# make unit     the unit tests alone
# make lock     requirements.lock anew, after a change of the requirements
# make docs     the documentation as a site in site/
# make messages the translations' catalogues, brought up to date with the code
PYTHON ?= python3
PORT ?= 8501
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)
BIN := .venv/bin
INSTALL := $(BIN)/uv pip install --python $(BIN)/python
PYTEST := $(BIN)/python -m pytest
# Test processes: two more than there are cores, since tests also wait; JOBS=… to change.
PARALLEL := --numprocesses $(JOBS) --dist worksteal
# Files of engine and browser tests stay whole, since their tests share a dashboard or what they loaded, and keep their
# order: engines first, the longest files first. (Groups by mark do nothing with pytest 9.2 and xdist 3.8.) They keep all
# cores busy, so unit tests don't run beside them: that took longer in all.
GROUPED := --numprocesses $(JOBS) --maxprocesses 3 --dist loadfile --no-loadscope-reorder

# uv leaves it to Python to compile what is imported. Where that is forbidden, every engine that a test starts would
# compile torch and transformers anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test check unit docs messages demo browser lock clean

run: .venv/run.stamp
	@$(BIN)/streamlit run streamlit_app.py --server.port $(PORT)

test: check demo browser
	$(PYTEST) $(PARALLEL) --ignore tests/e2e --ignore tests/engines --ignore tests/gpu
	$(PYTEST) $(GROUPED) tests/engines tests/e2e

# On a busy machine mypy's workers may not start in time, which it ends with 2: then it does the work alone.
check: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers auto || { [ $$? -eq 2 ] && $(BIN)/mypy; }

unit: .venv/dev.stamp
	$(PYTEST) $(PARALLEL) tests/unit

docs: .venv/docs.stamp
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

messages: .venv/dev.stamp
	@$(BIN)/python tools/messages.py

demo: .venv/run.stamp
	@$(BIN)/lmdyno models demo

browser: .venv/dev.stamp
	@tools/browser.sh

# uv comes from the lock too, checked by its hashes. Everything after it installs in seconds where it is cached.
.venv/uv.stamp: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "LMDyno needs Python 3.11 to 3.13. Name one: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes --requirement .venv/uv.txt
	@touch $@

.venv/run.stamp: requirements.txt requirements.lock pyproject.toml .venv/uv.stamp
	@echo "Installing the dashboard and its engines into .venv (8 GB on Linux; minutes the first time)"
	$(INSTALL) --require-hashes --requirement requirements.txt --constraint requirements.lock
	$(INSTALL) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev.stamp: requirements-dev.txt .venv/run.stamp
	$(INSTALL) --require-hashes --requirement requirements-dev.txt --constraint requirements.lock
	@touch $@

.venv/docs.stamp: requirements-docs.txt .venv/run.stamp
	$(INSTALL) --require-hashes --requirement requirements-docs.txt --constraint requirements.lock
	@touch $@

# No configuration of the machine's own decides where the versions come from.
lock: .venv/uv.stamp
	env -u UV_INDEX -u UV_DEFAULT_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS -u UV_CONSTRAINT \
	  $(BIN)/uv pip compile --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" --quiet requirements-dev.txt requirements-docs.txt \
	  --output-file requirements.lock

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
