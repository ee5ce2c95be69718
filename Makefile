# Every target does its own set-up in .venv; nothing else has to be typed on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
BENCH := .venv-bench/bin
BENCH_READY := .venv-bench/ready
PROMPT := He shook his
TARGET := " head"

# One thread a test process: two of them run at once, and threads of tiny models only wait.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

.PHONY: demo test check nightly bench

demo: $(READY)
	$(BIN)/lesion sweep --prompt "$(PROMPT)" --target $(TARGET) --select top,bottom,random:3 \
		--out runs/demo --overwrite

test: $(READY)
	$(PYTEST)

nightly: $(READY)
	$(PYTEST) -m nightly

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# All jobs, about 20 minutes on 2 cores; one of them with `make bench JOB=overhead`.
bench: $(BENCH_READY)
	$(BENCH)/python -m benchmarks check
	$(BENCH)/python -m benchmarks run $(JOB)
	$(BENCH)/python -m benchmarks report

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

# The libraries that the engine is timed against stay out of the environment that tests it.
$(BENCH_READY): pyproject.toml constraints.txt constraints-bench.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BENCH)/python -m pip install --quiet --constraint constraints.txt \
		--constraint constraints-bench.txt --editable ".[bench]"
	touch $(BENCH_READY)
