# make demo         train the example with every callback, and keep the checkpoints that pass
# make test         lint, types and tests (slow, browser and distributed tests: see .ci/run)
# make test-matrix  law 1 under each of 41,472 combinations of settings: hours (a part: PART=3/100; tests run 48 of them)
# make test-namespaces  the package with `pytorch_lightning`, with `lightning`, and with both installed
# make test-device  the laws on a device that is not the CPU, emulated, with float64 and without (needs a C++ compiler)
# make tensorboard  open what the demo logged (PORT=6006, LOGDIR=runs/adult)
# make lint | types | format | clean | distclean
#
# Needs Python 3.11 or newer (another one: make PYTHON=/path/to/python3), make and git. Everything goes into .venv.

PYTHON ?=
PORT   ?= 6006
LOGDIR ?= runs/adult
PART   ?= 1/1

# Relative paths only: the folder's own path may hold spaces.
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

# DEVICE=tests/callbacks, say, for other tests.
DEVICE ?= tests/test_laws.py tests/test_default_device.py
on_device = OMP_NUM_THREADS=1 $(python) -m pytest -n auto -p tools.emulated_device -m "not (slow or browser or distributed)" $(DEVICE)

test-device: $(stamp)
	$(on_device)
	EMULATED_WITHOUT_FLOAT64=1 $(on_device)

# Both Lightnings have the same classes twice: each is tested without the other, then each beside the other, and the laws of
# docs/laws.md, whose tests are written for `pytorch_lightning`, also with `lightning`.
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

# Images are thinned out to ten per tag unless TensorBoard is told otherwise.
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

# The stamp is written last: an installation that was interrupted is taken up again.
$(stamp): pyproject.toml constraints.txt
	@set -e; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then chosen=$$candidate; break; fi; \
	done; \
	if [ -z "$${chosen:-}" ]; then \
	    echo "xai-lightning needs Python 3.11 or newer$(if $(PYTHON),; $(PYTHON) is older or does not run,)." >&2; \
	    echo "Name one with: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	echo "Setting up .venv with $$("$$chosen" --version) (some minutes the first time)"; \
	"$$chosen" -m venv .venv || { echo "Making .venv failed; on Debian or Ubuntu, install python3-venv." >&2; exit 1; }
	$(python) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,examples]"
	$(python) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps aeon
	@touch $(stamp)
