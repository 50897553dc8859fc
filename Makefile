# Needs Python 3.11 or later, pip, make and git. Everything is installed into VENV.
PYTHON ?= python3
VENV   ?= .venv
# pip installs torch first, so that a wheel you name (for the CPU, for another CUDA) is the one that stays.
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin

.PHONY: demo test lint docs slow campaign clean help

demo: $(VENV)/.core   ## run the main job on the bundled data; write demo-report/report.html
	$(BIN)/otprior demo --out demo-report --overwrite

test: $(VENV)/.docs   ## run what CI runs: lint, the documentation, the tests, and a rehearsal of the demo
	$(MAKE) --jobs=2 lint docs
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n auto --dist loadfile
	HF_HUB_OFFLINE=1 $(BIN)/otprior demo --quick --out $(VENV)/quick-report --overwrite

lint: $(VENV)/.test   ## check style, types, the direction of imports, and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python scripts/package_size.py --check

docs: $(VENV)/.docs   ## build the documentation site in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

slow: $(VENV)/.test   ## run the longer tests and the gallery
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m slow

# How many mutated inputs and for how long, which of them, and where the results go.
COUNT  ?= 10000
MINUTES ?= 60
SEED   ?= 0
FOLDER ?= $(CURDIR)/campaign-results
campaign: $(VENV)/.test   ## mutated inputs, kills, two writers, full disks, for COUNT, MINUTES, SEED
	cd tests && for part in inputs kills writers disks; do $(abspath $(BIN))/python -m campaign $$part \
	  --folder $(FOLDER) --count $(COUNT) --minutes $(MINUTES) --seed $(SEED) || exit 1; done

clean:                ## remove the environment and the demo's report
	rm -rf $(VENV) demo-report

help:                 ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

$(VENV)/.core: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile "$(TORCH)"
	$(BIN)/python -m pip install --quiet --no-compile -e .
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --no-compile -e ".[test]"
	touch $@

$(VENV)/.docs: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --no-compile -e ".[docs]"
	touch $@
