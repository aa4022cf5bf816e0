# `make demo` trains, evaluates, translates and reports; `make test` passes the tests. Everything that they need is set up in
# .venv, from the committed lock. The other targets are for those who work on etude: CONTRIBUTING.md.
PYTHON ?= python3
BIN := .venv/bin
TESTS ?= tests

.PHONY: demo test test-slow test-gpu verify bench bench-gpu lint docs coverage wheel lock clean

demo: .venv/installed
	@run=$$($(BIN)/etude train experiment=translation/demo) && \
	echo && echo "'Delete this file?', 'The connection was lost' and 'Show all devices', translated by the run:" && \
	printf '%s\n' "Delete this file?" "The connection was lost" "Show all devices" | $(BIN)/etude predict "$$run" && \
	echo && echo "Run:    $$run" && echo "Scores: $$run/evaluations/test.json" && \
	echo "Report: $$($(BIN)/etude report "$$run")"

test: lint
	$(BIN)/python -m pytest -n 2 -rs -m "not slow" $(TESTS)

test-slow: .venv/installed
	$(BIN)/python -m pytest -n 2 -m slow --timeout 5400 $(TESTS)

# On a GPU; without one they are skipped, and their twins on a CPU are among the slow tests.
test-gpu: .venv/installed
	$(BIN)/python -m pytest -n 0 -rs -m "not slow" tests/gpu

# Types the commands whose results the documentation claims, and writes its tables: the quick ones, CARDS=all, or CARDS=NAMES.
verify: .venv/installed
	$(BIN)/python -m tests.cards $(CARDS)

# Side by side with peers and loops by hand, in twenty minutes: build/bench.jsonl, for `etude bench compare OLD NEW`.
bench: .venv/installed
	@mkdir -p build
	@for bench in translation masked_lm fine_tuning decoding; do \
		$(BIN)/python -m tests.bench.$$bench --rounds 5 --seconds 6 || exit 1; done > build/bench.jsonl
	@echo "build/bench.jsonl"

# On a GPU, beside loops by hand with torch.compile: build/bench-gpu.jsonl.
bench-gpu: .venv/installed
	@mkdir -p build
	@$(BIN)/python -m tests.bench.gpu > build/bench-gpu.jsonl
	@echo "build/bench-gpu.jsonl"

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The site, in build/site: docs/ and the docstrings. To read it while writing: .venv/bin/mkdocs serve
docs: .venv/installed
	$(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

# Lines and branches that the tests run, in processes that they start too; what is not reached: build/coverage/html
coverage: .venv/installed
	rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/python -m pytest -n 2 -m "not slow" --cov --cov-report= $(TESTS)
	$(BIN)/coverage html --quiet --directory build/coverage/html
	$(BIN)/coverage report

wheel: .venv/installed
	$(BIN)/python -m build --wheel --no-isolation --outdir build/wheel

# The lock holds every package at one version. The project itself is installed so that its sources can be edited.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "etude needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# Written anew from the ranges in pyproject.toml.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet ".[dev,docs,export]"
	build/lock/bin/python -m pip freeze --exclude etude | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache
