# The two commands: `make run` and `make test`. Both build .venv from requirements.lock first.
PYTHON ?= python3
CAMPAIGN ?= campaigns/solar_bg.yaml
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test test-fast lint lock clean

run: $(READY)
	$(BIN)/python -m al_crystal.run $(CAMPAIGN)

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A stamp, so that an install that was interrupted is taken up again. Nothing of the system's Python is used but venv itself.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, found " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# After a change of the ranges in pyproject.toml: resolve anew and freeze.
lock:
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[dev,notebook,sevennet]"
	(echo "# Every package of the environment, exact; renew with 'make lock' after changing pyproject.toml."; \
	 $(BIN)/python -m pip freeze --exclude-editable | sed -E 's/^torch( @.*|==2\.13\.0.*)$$/torch==2.13.0/') > requirements.lock

-include rigs/rigs.mk

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
