.DEFAULT_GOAL := help
.PHONY: help run images test test-faults test-browser test-docker test-scylla chaos bench charts check clean packages engine peers

MAKEFLAGS += --no-print-directory
python := .venv/bin/python

# An embedded engine is of no use where the store is a URL or runs in Docker.
own_engine := $(if $(filter http://% https://% docker,$(ENGINE)),,engine)

help: ## Show what make can do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# exec: make passes a SIGTERM on to its own child only.
run: packages $(own_engine) ## Run everything here: engine, API, worker and the minute tick
	@exec $(python) -m local run

images: packages ## Build the images of the worker, the API and the ticker
	@exec sh local/images.sh

test: packages $(if $(ENGINE_URL),,engine) ## Run all tests, on ENGINE_URL if it is set; coverage of chalicelib
	@$(python) -m pytest -m "not faults and not browser and not docker and not scylla" -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=95

test-faults: packages engine ## Run the scenarios with injected faults and show what each found
	@$(python) -m pytest tests/faults -m "faults and not alone" -n 3 -rP
	@$(python) -m pytest tests/faults -m alone -rP

test-browser: packages engine ## Drive the page in a browser (needs Chromium); SCREENSHOTS=docs keeps pictures
	@$(python) -m pytest tests/browser -m browser -n 2 --dist loadfile -rP --durations 5

test-docker: packages engine ## Build the images and run the service in containers (needs Docker)
	@$(python) -m pytest tests/containers -m docker -rP --durations 8

test-scylla: packages ## Provision and examine the real cluster that ALTERNATOR_ENDPOINTS names
	@$(python) -m pytest tests/deploy/test_scylla.py -m scylla -rP

chaos: packages engine ## One long run under all faults: CHAOS_TASKS, CHAOS_SEED, CHAOS_SECONDS
	@exec $(python) -m tests.faults.chaos

bench: packages engine $(if $(PEERS),peers) ## Measure speed and cost: PEERS=1 beside celery and dramatiq, FULL=1 with a million tasks
	@exec $(python) -m bench

charts: peers ## Draw what `make bench PEERS=1` measured last into docs/
	@exec .venv-bench/bin/python bench/charts.py .bench/latest.json docs

check: packages ## Check format, lint, import rules, types, and packages for known holes
	@$(python) -m ruff format --check .
	@$(python) -m ruff check .
	@$(python) -m mypy
	@$(python) -m local.audit

clean: ## Remove what was installed and cached; the tasks in .data stay
	@rm -rf .venv .venv-bench node_modules .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

packages engine peers:
	@exec sh local/install.sh $@
