# `make demo` shows the whole of it at work; `make test` runs every check. Both make their own environments.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test soak soak-services soak-endpoint bench docs clean

help:
	@echo "make demo    install into $(VENV) and run the example workflow"
	@echo "make test    run all tests and checks (tox); TOX_ARGS='-e lint' for a part"
	@echo "make soak    100,000 tasks through two services, one of them killed; needs PostgreSQL and RabbitMQ;"
	@echo "             then 50 kills of an endpoint's parts (make soak-services, make soak-endpoint: one of the two;"
	@echo "             make soak-endpoint ROUNDS=5 SEED=7: a few, from a seed on)"
	@echo "make bench   speed beside Parsl's local executor, the public peers and other tools, into bench/results (about half"
	@echo "             an hour, as root or with user namespaces; BENCH_ARGS='--quick' for a short run that keeps nothing)"
	@echo "make docs    build the documentation into docs/_build"
	@echo "make clean   remove everything that these made"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("parsl-globus needs Python 3.10 or newer; set PYTHON=...") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo-installed: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/tox-installed: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'tox>=4.11'
	@touch $@

demo: $(VENV)/demo-installed
	$(BIN)/parsl-globus demo $(DEMO_ARGS)

test: $(VENV)/tox-installed
	$(BIN)/tox run $(TOX_ARGS)

soak: soak-services soak-endpoint

# Writes soak/results/services-100000.txt; `make test` does the same with 10,000 tasks and keeps nothing.
soak-services: $(VENV)/tox-installed
	$(BIN)/tox run -e soak $(if $(SOAK_ARGS),-- $(SOAK_ARGS))

# Writes soak/results/endpoint-50.txt; `make test` does five rounds and keeps nothing, as does this with ROUNDS or SEED.
ROUNDS_ARGS = $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--first-seed $(SEED))
soak-endpoint: $(VENV)/tox-installed
	$(BIN)/tox run -e soak-endpoint $(if $(strip $(ROUNDS_ARGS) $(SOAK_ENDPOINT_ARGS)),-- $(ROUNDS_ARGS) $(SOAK_ENDPOINT_ARGS))

# Writes bench/results, from which docs/performance.rst is made; RabbitMQ and PostgreSQL are left out unless installed.
bench: $(VENV)/tox-installed
	$(BIN)/tox run -e bench $(if $(BENCH_ARGS),-- $(BENCH_ARGS))

docs: $(VENV)/tox-installed
	$(BIN)/tox run -e docs

clean:
	rm -rf $(VENV) .tox docs/_build build dist *.egg-info demo-run
