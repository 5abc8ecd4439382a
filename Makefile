# make run    the dashboard on http://localhost:8501 (PORT=… to change)
# make test   set-up for the tests, checks, then every test that needs no GPU
PYTHON ?= python3
PORT ?= 8501
BIN := .venv/bin

.PHONY: run test check demo browser clean

run: .venv/run.stamp demo
	@$(BIN)/streamlit run streamlit_app.py --server.port $(PORT)

test: check demo browser
	$(BIN)/python -m pytest -m "not gpu"

check: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

demo: .venv/run.stamp
	@$(BIN)/python -m core models demo

browser: .venv/dev.stamp
	@tools/browser.sh

.venv/run.stamp: requirements.txt
	@echo "Installing the dashboard and its engines into .venv (8 GB on Linux; several minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements.txt
	@touch $@

.venv/dev.stamp: requirements-dev.txt .venv/run.stamp
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
