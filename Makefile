# Everything a fresh machine needs: Python >= 3.11, pip, make, git.
PYTHON ?= python3
VENV   ?= .venv
# Installed first, by pip, so that a wheel you prefer (CPU, another CUDA) is the one that stays.
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin

.PHONY: demo test lint slow clean

demo: $(VENV)/.core                     ## the main job on bundled data; writes ./demo-report/
	$(BIN)/otprior demo --out demo-report --overwrite

test: lint                              ## what CI runs
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n auto --dist loadfile
	HF_HUB_OFFLINE=1 $(BIN)/otprior demo --quick --out $(VENV)/quick-report --overwrite

slow: $(VENV)/.test                     ## the longer tests
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m slow

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.core: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(BIN)/python -m pip install --quiet -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) demo-report
