# make demo         train the example with every callback, and keep the checkpoints that pass
# make test         lint, types and tests (slow, browser and distributed tests: see .ci/run)
# make test-matrix  law 1 under all 41,472 combinations of settings: takes hours (PART=3/100 runs a part, make test 48 of them)
# make test-namespaces  the package with `pytorch_lightning`, with `lightning`, and with both installed
# make test-device  the laws on an emulated device other than the CPU, with and without float64 (needs a C++ compiler)
# make tensorboard  show what the demo logged (PORT=6006, LOGDIR=runs/adult)
# make lint | types | format | clean | distclean
#
# Needs make, git and Python 3.11 or newer (choose one with make PYTHON=/path/to/python3). Everything is installed into .venv.

PYTHON ?=
PORT   ?= 6006
LOGDIR ?= runs/adult
PART   ?= 1/1

# Relative paths only: the folder's own path may contain spaces.
python := .venv/bin/python
stamp  := .venv/installed
homes  := .venvs/installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-matrix test-device test-namespaces tensorboard lint types format clean distclean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(stamp)
	$(python) examples/adult_income.py

test: lint types
	OMP_NUM_THREADS=1 $(python) -m pytest -n auto -m "not (slow or browser or distributed)"

test-matrix: $(stamp)
	MATRIX=$(PART) OMP_NUM_THREADS=1 $(python) -m pytest -n auto tests/test_matrix.py -k all_callbacks_together

# For other tests, set for example DEVICE=tests/callbacks.
DEVICE ?= tests/test_laws.py tests/test_default_device.py
on_device = OMP_NUM_THREADS=1 $(python) -m pytest -n auto -p tools.emulated_device -m "not (slow or browser or distributed)" $(DEVICE)

test-device: $(stamp)
	$(on_device)
	EMULATED_WITHOUT_FLOAT64=1 $(on_device)

# The two distributions of Lightning define the same classes twice: each is tested without the other and beside it. The laws
# of docs/laws.md, whose tests are written for `pytorch_lightning`, are tested with `lightning` as well.
in_home = OMP_NUM_THREADS=1 XAI_LIGHTNING_TEST_HOME=$(2) .venvs/$(1)/bin/python -m pytest -n 0
laws    = bit_identical or every_callback_works or resumed_run or plain_and_versioned or settled or averaged_weights

test-namespaces: $(homes)
	$(call in_home,pytorch_lightning,pytorch_lightning) tests/namespaces
	$(call in_home,lightning,lightning.pytorch) tests/namespaces
	$(call in_home,both,pytorch_lightning) tests/namespaces
	$(call in_home,both,lightning.pytorch) tests/namespaces
	$(call in_home,lightning,lightning.pytorch) -p tools.alias_lightning -m "not (slow or distributed)" tests/test_laws.py -k "$(laws)"

$(homes): $(stamp) tools/environments.py
	$(python) tools/environments.py
	@touch $(homes)

# By default, TensorBoard keeps only ten images per tag.
tensorboard: $(stamp)
	$(python) -m tensorboard.main --logdir "$(LOGDIR)" --port "$(PORT)" --samples_per_plugin images=500

lint: $(stamp)
	$(python) -m ruff check .
	$(python) -m ruff format --check .

types: $(stamp)
	$(python) -m mypy

format: $(stamp)
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

clean:
	rm -rf runs lightning_logs checkpoints build dist htmlcov .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find xai_lightning tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venvs

# The stamp is written last, so that an interrupted installation is resumed.
$(stamp): pyproject.toml constraints.txt
	@set -e; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then chosen=$$candidate; break; fi; \
	done; \
	if [ -z "$${chosen:-}" ]; then \
	    echo "xai-lightning needs Python 3.11 or newer$(if $(PYTHON),; $(PYTHON) is older or does not run,)." >&2; \
	    echo "Name one with: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	echo "Setting up .venv with $$("$$chosen" --version) (takes some minutes the first time)"; \
	"$$chosen" -m venv .venv || { echo "Creating .venv failed; on Debian or Ubuntu, install python3-venv." >&2; exit 1; }
	$(python) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,examples]"
	$(python) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps aeon
	@touch $(stamp)
