# Everything a newcomer or CI runs. Each target makes its own environment in .venv first; nothing is installed by hand.
PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed

# CI=true (or SLOW=1) runs the slow tests too.
ifneq (,$(filter true 1,$(CI) $(SLOW)))
SELECTION :=
else
SELECTION := -m "not slow"
endif

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs lab bench install clean

help: ## Show the targets
	@echo "Serving Workbench: make <target>"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: PYTHON=<interpreter, 3.11 to 3.13>  SLOW=1 (slow tests too)  ARGS='<more for pytest or the script>'"

demo: $(INSTALLED) ## Train a model, serve it, ask it over gRPC and REST, deploy version 2 under load
	$(BIN)/python -m serving_workbench.demo $(ARGS)

test: $(INSTALLED) ## Run the tests (SLOW=1 or CI=true: the slow ones too; ARGS="-k name")
	$(BIN)/python -m pytest $(SELECTION) $(ARGS)

lint: $(INSTALLED) ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED) ## Build the guide and the reference as HTML (build/docs/index.html)
	$(BIN)/python -m sphinx -q -W --keep-going -b html workbench/docs build/docs
	@echo "build/docs/index.html"

lab: $(INSTALLED) ## Open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=notebooks $(ARGS)

bench: $(INSTALLED) ## Measure the foundation, Jupyter's part, the data plane (ARGS: --quick; --markdown FILE of the last)
	$(BIN)/python -m tests.bench.foundation $(filter --quick,$(ARGS))
	$(BIN)/python -m tests.bench.jupyter $(filter --quick,$(ARGS))
	$(BIN)/python -m tests.bench.data_plane $(ARGS)

install: $(INSTALLED) ## Make .venv (the other targets do it by themselves)

# Keyed on pyproject.toml, so a changed dependency installs again, and on what an editable install copies for Jupyter;
# an interrupted install leaves no stamp.
$(INSTALLED): pyproject.toml $(wildcard kernel_ext/etc/jupyter/*/* kernel_ext/share/jupyter/labextensions/*/*.json kernel_ext/share/jupyter/labextensions/*/static/*)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
		echo "Serving Workbench needs Python 3.11 to 3.13; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
		echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into .venv: once, a few minutes with TensorFlow to download, about one with a warm cache ..."
	@start=$$(date +%s); $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,demo]' \
		&& echo "Installed in $$(( $$(date +%s) - start )) s."
	@touch $@

clean: ## Remove .venv, caches and build results
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find workbench kernel_ext server tests -name __pycache__ -prune -exec rm -rf {} +
