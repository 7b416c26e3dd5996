# Two commands matter: `make deploy` and `make test`. `make help` lists the rest.
SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= /usr/bin/python3
export PYTHON
LABCTL := $(PYTHON) lab/labctl
ARGS ?=
PART ?=
VALUE ?=

.PHONY: help deploy test venv lab lab-down lab-status lab-logs lab-reset lab-break lab-heal \
	test-unit test-lab bench-traffic lab-evidence lint sanity pages build lock clean

help: ## this list
	@echo 'signal.rollout: take a service from v1 to v2, proving every step'
	@echo
	@awk 'BEGIN { FS = ":.*## " } /^## / { printf "\n%s\n", substr($$0, 4) } /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

## The two commands
deploy: ## everything from a bare machine to a finished release in the lab, under traffic, with a summary
	@$(PYTHON) tools/deploy.py $(ARGS)

test: ## everything the tests need, then all of them; closes with the line "N passed, N failed"
	@$(PYTHON) tests/run.py all

## The lab: Kubernetes, Istio, TimescaleDB, Redis, Prometheus and the service, on this machine
lab: ## bring it up, or repair it
	@$(LABCTL) up

lab-down: ## stop it and leave nothing behind
	@$(LABCTL) down

lab-status: ## what runs, how much memory it takes, what is broken on purpose
	@$(LABCTL) status

lab-logs: ## its logs; one part only: PART=kubelet
	@$(LABCTL) logs $(PART)

lab-reset: ## back to v1 at 100 %, fresh database, no record
	@$(LABCTL) reset

lab-break: ## break something: WHAT=error-ratio VALUE=0.05 (WHAT=help lists all)
	@test -n '$(WHAT)' || { echo 'Say what to break, for example: make lab-break WHAT=error-ratio VALUE=0.05 (make lab-break WHAT=help lists all)' >&2; exit 2; }
	@$(LABCTL) break $(WHAT) $(VALUE)

lab-heal: ## undo what was broken; one thing only: WHAT=error-ratio
	@$(LABCTL) heal $(WHAT)

lab-evidence: venv ## tests, scan and load test of the lab's own service, for the boxes of code readiness: reports in the lab's folder evidence/
	@$(PYTHON) tools/lab_evidence.py

## Work on the collection
venv: ## the Python environment, outside the checkout, linked as .venv
	@tools/venv.sh

test-unit: ## unit tests only (seconds, no lab)
	@$(PYTHON) tests/run.py unit

test-lab: ## the tests that need the lab: contract, integration, e2e, molecule, lab
	@$(PYTHON) tests/run.py contract integration e2e molecule lab

bench-traffic: venv ## what traffic under a release is worth, measured on the lab, as Markdown: ARGS='--only breach --minutes 10'
	@.venv/bin/python tests/bench/traffic $(ARGS)

lint: ## ruff, yamllint, shellcheck and ansible-lint (profile production)
	@$(PYTHON) tests/run.py lint

sanity: ## ansible-test sanity in a clean copy
	@$(PYTHON) tests/run.py sanity

pages: venv ## write the pages that are made from the code: docs/engine_map.md, docs/checklist_proofs.md
	@.venv/bin/python tools/engine_map.py
	@.venv/bin/python tools/boxes.py

build: venv ## the archive to publish or install, in build/
	@mkdir -p build
	@.venv/bin/ansible-galaxy collection build --force --output-path build .

lock: venv ## write requirements.txt and requirements-test.txt anew from their .in files
	@tools/lock.sh

clean: ## remove what make wrote into the checkout (the environment and the lab's cache stay)
	@rm -rf build tests/output .ansible .pytest_cache .ruff_cache .hypothesis
	@rm -f .venv
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
