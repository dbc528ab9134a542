.DEFAULT_GOAL := help
.PHONY: help test quick lint format check docs

help: ## List these verbs
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

test: ## Run all tests
	uv run pytest

quick: ## Run all tests but the slow ones, in a minute and a half; those that failed last come first
	uv run pytest --failed-first -m "not slow"

lint: ## Style, types, floors; changes nothing
	uv run ruff check
	uv run ruff format --check
	uv run pyright
	uv run lint-imports

format: ## Format, and fix what can be fixed
	uv run ruff check --fix
	uv run ruff format

check: lint test ## What has to pass before a change is handed in

docs: ## Build the documentation into site/
	uv run --group docs python docs/build.py
