# The commands of this project, for people and for CI. Each sets up what it needs in .venv first.
#
#   PYTHON=python3.13     the interpreter for .venv (3.11 or newer; delete .venv to change it)
#   VENV=.venv-3.13       another folder than .venv, to have several interpreters side by side
#   PORT=8080             where `make run` listens
#   BASE_IMAGE=...        what `make image` builds on (a Debian with Python 3.11 or newer and venv)
#   POSTGRES=postgresql:  a database in which `make bench BENCH=engine` measures journals, too
#   PEERS=--quick         options of `make bench-peers` (--help lists them)
#   SEEDS=, SEED=7        how many worlds `make simulate` plays (until Ctrl-C), or which one it shows again
#   ENGINES=2             have `make simulate` play only worlds with so many servers over one journal
#   SERVERS=3             how many servers `make soak` has over a private PostgreSQL (one over a file)
#   MODULES=_history      what `make mutate` changes, below src/strandline (default: history, journal and engine)
#   MUTATE=--again        options of `make mutate` (--help lists them)
#   KILLS=1000, SEED=7    how often `make soak` kills servers, and by which schedule (one by chance)
#   WORKERS=4             how many processes share the tests; they wait more than they compute (0: one after another)
#   ORDER=random, ORDER=7 the tests in another order: of a seed that is printed, or of this one
#   IMAGE=strandline      the name of the image
#   SOURCE=https://...    where the image's source is, for its labels
#   CA_BUNDLE=...         a file of certificates for pip in the build, on networks with their own authority

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run run-scale test interfaces coverage check mutate simulate bench bench-peers soak docs pictures image

VENV ?= .venv
BIN := $(VENV)/bin
BASE_IMAGE ?= python:3.13-slim
IMAGE ?= strandline
CA_BUNDLE ?= $(PIP_CERT)
SOURCE ?=
DOCKER_BUILD_FLAGS ?=
TESTS ?=
WORKERS ?= 4
BENCH ?= engine http control stream dialects memory
PEERS ?=
MODULES ?=
MUTATE ?=
SEEDS ?=
JOURNAL ?=
KILLS ?= 1000
SEED ?=
ORDER ?=

help: ## Say what there is
	@printf 'make TARGET, where TARGET is one of\n\n'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 15

run: $(VENV)/.demo ## Serve the demo agent on a small model of this machine
	@VENV=$(VENV) tools/venv.sh model
	@exec $(BIN)/python -m strandline._demo

run-scale: $(VENV)/.demo ## Kill one of three servers over a private PostgreSQL, and see its conversations continue
	@VENV=$(VENV) tools/venv.sh postgres
	@exec $(BIN)/python -m tools.run_scale

test: $(VENV)/.dev ## Run the tests (some of them: make test TESTS=tests/unit)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) $(if $(ORDER),--order $(ORDER)) $(TESTS)

interfaces: $(VENV)/.dev ## Run Open WebUI and CopilotKit in a browser at real servers (2 GB are downloaded at first)
	STRANDLINE_INTERFACES=1 $(BIN)/python -m pytest tests/acceptance/test_user_interfaces.py

coverage: $(VENV)/.dev ## Run the tests, and say which lines of the package none of them has run (TESTS= as for test)
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses $(WORKERS) $(TESTS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

check: $(VENV)/.dev ## Check format, style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy src tests bench container judging simulation soak tools
	@# Each folder has an agent.py of its own, served from there.
	@for each in examples/*/; do MYPYPATH=$$each $(BIN)/mypy $$each || exit; done
	$(BIN)/lint-imports

mutate: $(VENV)/.mutate ## Change the code, one place at a time, and list what no test notices (MODULES=_journal/rules.py)
	@exec $(VENV)/mutate/bin/python tools/mutate.py $(MODULES) $(MUTATE)

simulate: $(VENV)/.dev ## Play seeded worlds on virtual time and judge them, until Ctrl-C (SEEDS=1000; one again: SEED=7)
	@exec $(BIN)/python -m simulation $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SEED),--seed $(SEED))$(if $(JOURNAL), --journal $(JOURNAL))$(if $(ENGINES), --engines $(ENGINES))

bench: $(VENV)/.dev ## Measure the engine and the server (one of them: make bench BENCH=http)
	@for part in $(BENCH); do $(BIN)/python -m bench.$$part || exit; done

bench-peers: $(VENV)/.peers ## Measure Strandline beside other servers (PEERS=--quick, PEERS=--help)
	@exec $(VENV)/peers/bin/python -m bench.peers $(PEERS)

soak: $(VENV)/.dev ## Kill real servers under load, and judge what became of their promises (make soak KILLS=100 SERVERS=3)
	@exec $(BIN)/python -m soak --kills $(KILLS) $(if $(SEED),--seed $(SEED)) $(if $(SERVERS),--servers $(SERVERS))

docs: $(VENV)/.dev ## Build the documentation as a site, to be read without a network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@printf 'built; open it: file://%s/site/index.html\n' "$$PWD"

pictures: $(VENV)/.dev ## Draw the pictures of the documentation anew
	@$(BIN)/python -m tools.pictures

image: ## Build the container image
	docker build $(DOCKER_BUILD_FLAGS) --build-arg BASE_IMAGE=$(BASE_IMAGE) \
	  $(foreach label,$(LABELS),--label org.opencontainers.image.$(label)) \
	  $(if $(CA_BUNDLE),--secret id=pip_ca$(comma)src=$(CA_BUNDLE)) --tag $(IMAGE) .

comma := ,
# What only a build knows. The time is the commit's, so that the same commit makes the same image.
LABELS = version=$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/strandline/__init__.py) \
  $(addprefix revision=,$(shell git rev-parse HEAD 2>/dev/null)) \
  $(addprefix created=,$(shell git log -1 --format=%cI 2>/dev/null)) \
  $(addprefix source=,$(SOURCE))

$(VENV)/.demo $(VENV)/.dev: pyproject.toml constraints.txt tools/pins.py
	@VENV=$(VENV) tools/venv.sh $(patsubst .%,%,$(@F))

$(VENV)/.mutate: pyproject.toml constraints.txt tools/pins.py
	@VENV=$(VENV) tools/venv.sh mutate

$(VENV)/.peers: pyproject.toml bench/peers/constraints.txt
	@VENV=$(VENV) tools/venv.sh peers
