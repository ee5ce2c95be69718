# Every target does its own set-up in .venv; nothing else has to be typed on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
CLUSTER := .venv-cluster/bin
CLUSTER_READY := .venv-cluster/ready
MOTO := .venv-moto/bin
MOTO_READY := .venv-moto/ready
BENCH := .venv-bench/bin
BENCH_READY := .venv-bench/ready
PROMPT := He shook his
TARGET := " head"

# One thread a test process: two of them run at once, and threads of tiny models only wait.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

.PHONY: demo test check nightly bench cluster

demo: $(READY)
	$(BIN)/lesion sweep --prompt "$(PROMPT)" --target $(TARGET) --select top,bottom,random:3 \
		--out runs/demo --overwrite

test: $(READY)
	$(PYTEST)

nightly: $(READY)
	$(PYTEST) -m nightly

# Ray on two nodes of this machine, and runs on S3 against a server on loopback.
cluster: $(CLUSTER_READY) $(MOTO_READY)
	OMP_NUM_THREADS=1 $(CLUSTER)/python -m pytest -m "cluster or s3" tests/runs

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

# Ray and s3fs bring an older python-dateutil than the rest is tested with: an environment of theirs.
$(CLUSTER_READY): pyproject.toml constraints-cluster.txt
	$(PYTHON) -m venv .venv-cluster
	$(CLUSTER)/python -m pip install --quiet --constraint constraints-cluster.txt torch==2.13.0
	$(CLUSTER)/python -m pip install --quiet --constraint constraints-cluster.txt \
		--editable ".[ray,s3]" beartype hypothesis pytest
	touch $(CLUSTER_READY)

# The S3 server of the tests pins another botocore than s3fs.
$(MOTO_READY): constraints-moto.txt
	$(PYTHON) -m venv .venv-moto
	$(MOTO)/python -m pip install --quiet --constraint constraints-moto.txt "moto[s3,server]"
	touch $(MOTO_READY)
