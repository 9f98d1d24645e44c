# `make demo` on a fresh clone builds .venv (Python 3.11 and make are all it needs) and measures a real model.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test fuzz torture lint format clean

demo: $(STAMP)
	$(BIN)/leakmech bench configs/quickstart.yaml --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Damaged files of every kind for ten minutes; the suite tries a few of each.
fuzz: $(STAMP)
	FUZZ_SECONDS=600 $(BIN)/python -m pytest tests/test_fuzz.py --timeout 0

# Runs that are killed at 200 random moments end as those that nobody disturbed (about half an hour).
torture: $(STAMP)
	PYTHONPATH=.:tests $(BIN)/python tests/torture.py --moments 200

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last, so an interrupted installation is repeated. The environment is made anew when the versions
# change: nothing that an older list asked for stays behind.
$(STAMP): pyproject.toml constraints.txt constraints-embedded.txt
	@echo "installing into $(VENV) (one to a few minutes)"
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install -qq -c constraints.txt -e ".[dev]"
	$(PIP) install -qq --no-deps --require-hashes -r constraints-embedded.txt
	@touch $@
