# Everything below stands on Python 3.11+ and Debian's apt; the rest is fetched once
# into $XDG_CACHE_HOME/vworkspace-push. ARGS passes arguments on.

PYTHON ?= python3
ARGS ?=
ENVIRONMENT = $(PYTHON) -m environment

.DEFAULT_GOAL := help
.PHONY: help run clean shell kubectl operator test unit faults bench lint format
.PHONY: screenshots

help: ## List these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | \
		awk -F '\t' '{ printf "make %-12s %s\n", $$1, $$2 }'

run: ## Bring up the demo: Odoo, PostgreSQL, control plane, operator; Ctrl-C stops it
	@$(ENVIRONMENT) run

clean: ## Forget the demo's data (the cache of downloads and builds stays)
	@$(ENVIRONMENT) clean

shell: ## Open an Odoo shell on the demo database
	@$(ENVIRONMENT) shell

kubectl: ## Run kubectl on the demo cluster: make kubectl ARGS="get appinst -A"
	@$(ENVIRONMENT) kubectl $(ARGS)

operator: ## Tell the simulated operator how to behave: ARGS="degrade demo/hello"
	@$(ENVIRONMENT) operator $(ARGS)

test: ## Run the test suite, but what takes minutes; ARGS goes to pytest
	@$(ENVIRONMENT) test $(ARGS)

unit: ## Run the tests that need no Odoo and no cluster, in seconds
	@$(ENVIRONMENT) unit $(ARGS)

faults: ## Run all tests of faults, also those that take minutes
	@$(ENVIRONMENT) faults $(ARGS)

bench: ## Measure, and write benchmarks/results.json
	@$(ENVIRONMENT) bench $(ARGS)

lint: ## Check style, types, layers and the addon's manifest, views and scripts
	@$(ENVIRONMENT) lint

format: ## Rewrite files as the formatters want them
	@$(ENVIRONMENT) format

screenshots: ## Take the documentation's screenshots from the running demo
	@$(ENVIRONMENT) screenshots
