# Every target does its own set-up in .venv; nothing else has to be typed on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
PROMPT := He shook his
TARGET := " head"

# One thread a test process: two of them run at once, and threads of tiny models only wait.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

.PHONY: demo test check nightly

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

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)
