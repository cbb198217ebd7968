# Every target creates what it needs: a virtual environment in .venv from the locked requirements, nothing outside it.
SERVICE := services/aigen-orchestration-service
CLIENT  := clients/python
VENV    := $(CURDIR)/.venv
PYTHON  ?= python3
RUN     := $(VENV)/bin
STAMP   := $(VENV)/.set-up
AUDIT   := $(CURDIR)/.venv-audit
PEERS   := $(CURDIR)/.venv-peers
FUZZ    := $(CURDIR)/.venv-fuzz
LINT    := $(SERVICE)/tools/api_lint
ARGS    ?=
N       ?= 5000
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help demo serve doctor test check unit fmt bench bench-check bench-compare bench-peers crash chaos fuzz e2e-n8n docs lock audit clean shots

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): $(SERVICE)/requirements-dev.lock $(SERVICE)/pyproject.toml $(CLIENT)/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set it with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up .venv (once; about a minute) ..."
	@test -x $(RUN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "Cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(SERVICE)/requirements-dev.lock
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e $(CLIENT) -e $(SERVICE)
	@touch $@

demo: $(STAMP) ## Start everything and show one generation from quote to final (ARGS=--exit: do not keep serving)
	@$(RUN)/aigen demo $(ARGS)

serve: $(STAMP) ## Run the service (ARGS="--port 9000 --roles api,relay")
	@$(RUN)/aigen serve $(ARGS)

doctor: $(STAMP) ## Check every dependency and print the remedies
	@$(RUN)/aigen doctor $(ARGS)

test: check ## Run make check and all tests on real PostgreSQL, RabbitMQ and Chromium
	@cd $(SERVICE) && $(RUN)/python -m tests.support.services
	@cd $(SERVICE) && $(RUN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-append --cov-fail-under=90 \
		--cov-report=term:skip-covered --ignore=tests/unit $(ARGS)

$(LINT)/node_modules/.set-up: $(LINT)/package-lock.json
	@command -v npm >/dev/null || { echo "Node.js with npm is needed to lint the API descriptions. On Debian and Ubuntu: apt-get install npm"; exit 1; }
	@cd $(LINT) && npm ci --silent --no-audit --no-fund --ignore-scripts
	@touch $@

check: $(STAMP) $(LINT)/node_modules/.set-up ## Run lint, types, import rules, API description lint and unit tests; no services needed
	@cd $(SERVICE) && $(RUN)/ruff check . && $(RUN)/ruff format --check .
	@cd $(CLIENT) && $(RUN)/ruff check . && $(RUN)/ruff format --check .
	@$(RUN)/ruff check odoo && $(RUN)/ruff format --check odoo
	@cd $(SERVICE) && $(RUN)/mypy
	@cd $(CLIENT) && $(RUN)/mypy
	@cd $(SERVICE) && $(RUN)/lint-imports
	@cd $(LINT) && REDOCLY_TELEMETRY=off node_modules/.bin/redocly lint --format=summary $(CURDIR)/docs/openapi.json 2>/dev/null
	@cd $(LINT) && node_modules/.bin/spectral lint --fail-severity=error --display-only-failures $(CURDIR)/docs/openapi.json
	@cd $(LINT) && node asyncapi.mjs $(CURDIR)/docs/asyncapi.yaml
	@cd $(SERVICE) && $(RUN)/python -m pytest tests/unit -q --disable-socket --allow-unix-socket --cov --cov-report=

fmt: $(STAMP) ## Format the code
	@cd $(SERVICE) && $(RUN)/ruff format . && $(RUN)/ruff check --fix .
	@cd $(CLIENT) && $(RUN)/ruff format . && $(RUN)/ruff check --fix .
	@$(RUN)/ruff format odoo && $(RUN)/ruff check --fix odoo

bench: $(STAMP) ## Measure, print a table and write JSON to bench/results/
	@cd $(SERVICE) && $(RUN)/python -m tests.support.services && $(RUN)/python -m bench $(ARGS)

bench-check: $(STAMP) ## Compare the ratios with the baseline; fail at a loss of more than 15 % (ARGS=--accept: new baseline)
	@cd $(SERVICE) && $(RUN)/python -m tests.support.services && $(RUN)/python -m bench.check $(ARGS)

$(PEERS)/.set-up: $(SERVICE)/bench/peers/requirements.txt
	@echo "Setting up .venv-peers with DBOS, Celery and procrastinate (once; about a minute) ..."
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $(SERVICE)/bench/peers/requirements.txt
	@touch $@

bench-peers: $(STAMP) $(PEERS)/.set-up ## Compare lifecycles with DBOS, Celery and procrastinate; 2 minutes (ARGS="--rounds 5")
	@cd $(SERVICE) && $(RUN)/python -m tests.support.services && $(RUN)/python -m bench.peers $(ARGS)

bench-compare: $(STAMP) ## Compare the cost of a lifecycle with another commit (ARGS="--base COMMIT --rounds 5")
	@cd $(SERVICE) && $(RUN)/python -m tests.support.services && $(RUN)/python -m bench.compare $(ARGS)

e2e-n8n: $(STAMP) ## Test the workflows on a real n8n; 25 minutes, 10 more and 3 GB the first time (ARGS=--quick: 10)
	@cd $(SERVICE) && $(RUN)/python -m tests.support.services && $(RUN)/python -m tests.e2e_n8n $(ARGS)

crash: $(STAMP) ## Kill the service at every failpoint and check the invariants (ARGS="--failpoint BatchWriter.write")
	@cd $(SERVICE) && $(RUN)/python -m tests.support.services && $(RUN)/python -m tests.faults.crash $(ARGS)

chaos: $(STAMP) ## Run thousands of requests under cut connections, stalls and kills (N=5000)
	@cd $(SERVICE) && $(RUN)/python -m tests.support.services && $(RUN)/python -m tests.faults.chaos $(N) $(ARGS)

$(FUZZ)/.set-up: $(SERVICE)/tests/contracts/openapi_fuzz/requirements.txt
	@echo "Setting up .venv-fuzz with schemathesis (once) ..."
	@test -x $(FUZZ)/bin/python || $(PYTHON) -m venv $(FUZZ)
	@$(FUZZ)/bin/python -m pip install --quiet --disable-pip-version-check -r $(SERVICE)/tests/contracts/openapi_fuzz/requirements.txt
	@touch $@

fuzz: $(STAMP) $(FUZZ)/.set-up ## Call the API with requests generated from its description (ARGS="--max-examples 200")
	@cd $(SERVICE) && $(RUN)/python -m tests.support.services && \
		$(RUN)/python -m tests.contracts.openapi_fuzz $(FUZZ)/bin/schemathesis $(ARGS)

docs: $(STAMP) ## Regenerate the generated documents and the synchronous client
	@cd $(SERVICE) && $(RUN)/python -m tools.generate_docs
	@$(RUN)/python $(CLIENT)/tools/generate_sync.py

shots: $(STAMP) ## Take the screenshots of the documents
	@cd $(SERVICE) && $(RUN)/python -m tests.support.services && $(RUN)/python -m tests.browser.shots && $(RUN)/python -m tests.browser.console_shots

lock: $(STAMP) ## Lock the dependencies: requirements.lock and requirements-dev.lock
	@$(RUN)/python -m pip install --quiet uv
	@cd $(SERVICE) && for extra in "" "--extra dev"; do \
		$(RUN)/uv pip compile --quiet --universal --generate-hashes --no-strip-extras --no-emit-index-url --no-header \
			--no-emit-package creativeflow-aigen-client --python-version 3.11 $$extra pyproject.toml -o requirements$${extra:+-dev}.lock || exit 1; done

audit: $(STAMP) ## Check the locked dependencies for known vulnerabilities (needs the network)
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install --quiet pip-audit; }
	@$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes -r $(SERVICE)/requirements-dev.lock || \
		{ echo "A dependency has a known vulnerability, or the database is unreachable; see the lines above."; exit 1; }

clean: ## Remove the virtual environment and caches
	@rm -rf $(VENV) $(LINT)/node_modules $(AUDIT) $(PEERS) $(FUZZ) $(SERVICE)/.mypy_cache $(SERVICE)/.ruff_cache $(SERVICE)/.pytest_cache \
		$(CLIENT)/.mypy_cache $(CLIENT)/.ruff_cache
