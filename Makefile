# Every target sets itself up in .venv; nothing but Python 3.11 or newer and make is needed.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# One thread per test process: several share the cores. A page's examples build on each other, so one
# process runs a whole file.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: demo test slow matrix fuzz mutants lint docs docs-serve browser figures tutorial bench conformance oldest clean

# Idle threads sleep instead of spinning: many times faster where other programs run too.
demo: .venv/.examples
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python examples/train.py examples/configs/digits.toml --out runs/demo-$(shell date +%Y%m%d-%H%M%S)

test: lint
	$(TEST)

# Published results by training, which takes too long for every run.
slow: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/slow/check_*.py

# Every penalty with every layer of a critic, compiled and on two processes too; it goes on where it was
# stopped, and starts anew without the results.
matrix: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/matrix.py docs/results/stacking.jsonl docs/results/stacking.md

# Thousands of specs, valid and broken, for each kind.
fuzz: .venv/.dev
	GAN_BLOCKS_FUZZ=1500 $(TEST) tests/test_fuzz.py

# Whether the tests notice small changes of the code; some tens of minutes.
mutants: .venv/.dev
	$(INSTALL) -e ".[mutation]"
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py losses divergences auxiliary penalties constraints lipschitz layers networks

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# The site in headless Chromium, which has to be there: apt-get install chromium.
browser: .venv/.dev
	$(BIN)/python -m pytest tests/browser/check_*.py

# The pictures that take no training; those of trainings are made by the command on their page.
figures: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python examples/figures.py
	OMP_NUM_THREADS=1 $(BIN)/python examples/dirac_gan.py --docs docs

# The notebook and the page of examples/tutorial.py, with their outputs. It takes some minutes, and MNIST:
# downloaded, or from the folder in GAN_BLOCKS_MNIST.
tutorial: .venv/.dev
	$(BIN)/jupytext --quiet --to ipynb examples/tutorial.py
	OMP_WAIT_POLICY=PASSIVE $(BIN)/jupyter nbconvert --to notebook --inplace --execute \
	  --ExecutePreprocessor.record_timing=False examples/tutorial.ipynb
	rm -rf docs/images/tutorial
	$(BIN)/jupyter nbconvert --to markdown --template notebook_page --output-dir docs \
	  --TemplateExporter.extra_template_basedirs=docs/hooks \
	  --NbConvertApp.output_files_dir=images/tutorial examples/tutorial.ipynb

# The page's table of benchmarks; with bfloat16 arithmetic as users have it, see docs/testing.md.
bench: .venv/.dev
	mkdir -p runs
	ONEDNN_MAX_CPU_ISA=DEFAULT $(BIN)/python -m pytest tests/benchmarks/bench_*.py \
	  --benchmark-columns=min,median,rounds --benchmark-sort=fullname --benchmark-json=runs/benchmarks.json
	$(BIN)/python tests/benchmarks/table.py runs/benchmarks.json docs/results/benchmarks.md

# Every check of the kit with every block, as the page's table.
conformance: .venv/.dev
	mkdir -p runs
	$(TEST) tests/test_conformance.py --junitxml=runs/conformance.xml
	$(BIN)/python tests/conformance_table.py runs/conformance.xml docs/results/conformance.md

# The tests on the oldest torch that pyproject.toml allows, in an environment of their own.
oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet torch==2.13.0 numpy pytest pytest-xdist hypothesis sybil scipy jsonschema hatchling -e .
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest --numprocesses auto --dist loadfile gan_blocks \
	  $(foreach part,cli conformance critic_gradients divergences documents global_state hostile_plugins lipschitz losses networks penalties registry schedules spec weight_constraints,tests/test_$(part).py)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "gan_blocks needs Python 3.11 or newer; name one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.examples: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing torch and the examples into .venv: about 5 GB, some minutes the first time."
	$(INSTALL) -e ".[examples]"
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing torch and the development tools into .venv: about 5 GB, some minutes the first time."
	$(INSTALL) -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv .venv-oldest site runs examples/runs dist
