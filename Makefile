# Everything runs in .venv, which scripts/setup creates and keeps up to date.
.DEFAULT_GOAL := help
.PHONY: help demo test lint format api docs docs-serve package bench coverage clean

# Two cores are enough to halve the time, and each job starts servers of its own.
JOBS ?= 2

export NO_MKDOCS_2_WARNING := 1
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## watch a failover from a dead target to a real local model
	@scripts/setup demo
	@python examples/demo.py

test: ## run the whole test suite, including a real llama.cpp server; JOBS=1 for one test at a time
	@scripts/setup dev
	@scripts/setup peers
	@scripts/setup oldest
	python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: ## check style, types, the typed sample and the import contracts
	@scripts/setup dev
	ruff check
	ruff format --check
	mypy
	pyright
	lint-imports --no-cache

package: ## build the sdist and the wheel into dist/, and check that they are complete
	@scripts/setup dev
	python scripts/package.py

format: ## apply the formatter and the safe fixes
	@scripts/setup dev
	ruff check --fix
	ruff format

api: ## renew tests/house/api.txt after a change of what users may rely on
	@scripts/setup dev
	python scripts/public_api.py

docs: ## build the documentation site into site/, and fail on any dead link
	@scripts/setup dev
	mkdocs build

docs-serve: ## show the documentation site at http://127.0.0.1:8000, and again after each change
	@scripts/setup dev
	mkdocs serve

coverage: ## run the tests and report the lines and branches they missed
	@scripts/setup dev
	@scripts/setup peers
	@scripts/setup oldest
	coverage erase
	coverage run -m pytest $(ARGS) # before pytest: its plugins import aiollm
	coverage combine -q
	coverage report

bench: ## measure aiollm and its peers: all, or e.g. ARGS="--quick --only openai"
	@scripts/setup dev
	python benchmarks/run.py $(ARGS)

clean: ## remove dist/, the environments and every cache
	rm -rf dist site .venv .venv-peers .venv-oldest .node .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
