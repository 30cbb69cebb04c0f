# Two commands matter: `make demo` and `make test`. Both set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
BIN := $(VENV)/bin
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test test-browser test-all test-oldest docs dist lint setup clean sample-lenet5-mnist \
	sample-lenet5-mnist-dense sample-lenet5-stl10 \
	sample-alexnet sample-resnet56 sample-resnet56-2.57x sample-resnet56-4x sample-detectnet

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[torch,jax,ray,samples,dev]'
	touch $@

# `make demo ADAPTER=jax` retrains in JAX instead of PyTorch.
ADAPTER ?= torch
demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" ADAPTER="$(ADAPTER)" sh samples/digits/demo.sh

# The paper's experiments: each takes long, and goes on where it stopped when it is started again.
# `make sample-alexnet EVONNX_DATA=FOLDER SEED=1` reads data that is there already and evolves with another seed.
SAMPLE := PATH="$(CURDIR)/$(BIN):$$PATH" sh samples/run.sh
FREE := --align 1 --threads 1 --max-drop 1
SHARP := --encoding samples/encodings.py:sharp $(FREE)
SHARP_GRADIENTS := --encoding samples/encodings.py:sharp_gradients $(FREE)

# The fewest synapses, and the fewest stored parameters.
sample-lenet5-mnist: setup
	$(SAMPLE) lenet5_mnist lenet5 synapses $(SHARP) --budget synapses=0.00355 --pace 1.5 --gens 20 --epochs 6 --recovery-epochs 30 --screen 8

sample-lenet5-mnist-dense: setup
	$(SAMPLE) lenet5_mnist lenet5 dense $(SHARP) --levels clusters --budget synapses=0.0065 --pace 1.5 --gens 16 --epochs 6 --recovery-epochs 40

sample-lenet5-stl10: setup
	$(SAMPLE) lenet5_stl10 lenet5 evolved --gens 9 --target 0.0178 --epochs 4 --recovery-epochs 20

sample-alexnet: setup
	$(SAMPLE) alexnet_cifar10 alexnet evolved --gens 8 --target 0.0167 --epochs 2 --recovery-epochs 10

# TRAIN="--weights FILE.npz" takes trained weights instead of training. The fewest synapses; and 2.57 and 4
# times fewer multiply-accumulates by whole channels.
sample-resnet56: setup
	$(SAMPLE) resnet56_cifar10 resnet56 synapses $(SHARP) --budget synapses=0.0995 --gens 5 --epochs 2 --recovery-epochs 40 --screen 4

sample-resnet56-2.57x: setup
	$(SAMPLE) resnet56_cifar10 resnet56 macs2.57x $(SHARP_GRADIENTS) --levels clusters --budget macs=0.3885 --gens 2 --epochs 1 --recovery-epochs 24 --learning-rate 0.05 --screen 4

sample-resnet56-4x: setup
	$(SAMPLE) resnet56_cifar10 resnet56 macs4x $(SHARP_GRADIENTS) --levels clusters --budget macs=0.2495 --gens 3 --epochs 1 --recovery-epochs 32 --learning-rate 0.05 --screen 4

# The ancestor is trained on CPU cores, at a quarter of GoogLeNet's width.
sample-detectnet: setup
	$(SAMPLE) detectnet_kitti detectnet evolved --gens 5 --target 0.095 --epochs 3 --recovery-epochs 35 --screen 8 --max-drop 0.3

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy evonnx adapters
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n 2

# The report in a real browser: the system's Chromium, else one that playwright downloads.
test-browser: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[browser]'
	$(BIN)/python tests/browser/chromium.py || $(BIN)/python -m playwright install --with-deps chromium || true
	$(BIN)/python -m pytest -m browser -rs tests/browser

test-all: lint
	$(BIN)/python -m pytest -n 2 -m ''

# With the oldest libraries that are allowed, in an environment of its own. PyTorch of that age comes with CUDA: gigabytes.
test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt --editable '.[torch,samples,dev]'
	$(OLDEST)/bin/python -m pytest -n 2

# The documentation, in build/site: opens from there and needs no network; only its search needs a server (`mkdocs serve`).
docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python -m pytest tests/test_docs.py

# Wheel and sdist, tried in an environment of their own.
dist: setup
	rm -rf build dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m pytest tests/test_distribution.py

clean:
	rm -rf $(VENV) $(OLDEST) build dist runs
