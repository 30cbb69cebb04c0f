# Two commands matter: `make demo` and `make test`. Both set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test test-all lint setup clean sample-lenet5-mnist sample-lenet5-stl10 sample-alexnet sample-resnet56 sample-detectnet

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[torch,samples,dev]'
	touch $@

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" sh samples/digits/demo.sh

# The paper's experiments: each takes long, and goes on where it stopped when it is started again.
# `make sample-alexnet EVONNX_DATA=FOLDER` reads data that is there already.
SAMPLE := PATH="$(CURDIR)/$(BIN):$$PATH" sh samples/run.sh

sample-lenet5-mnist: setup
	$(SAMPLE) lenet5_mnist lenet5 --gens 13 --target 0.0079 --epochs 2 --recovery-epochs 10

sample-lenet5-stl10: setup
	$(SAMPLE) lenet5_stl10 lenet5 --gens 9 --target 0.0178 --epochs 4 --recovery-epochs 20

sample-alexnet: setup
	$(SAMPLE) alexnet_cifar10 alexnet --gens 8 --target 0.0167 --epochs 2 --recovery-epochs 10

# TRAIN="--weights FILE.npz" takes trained weights instead of training.
sample-resnet56: setup
	$(SAMPLE) resnet56_cifar10 resnet56 --gens 5 --target 0.1 --epochs 4 --recovery-epochs 20

# The ancestor is trained on CPU cores, at a quarter of GoogLeNet's width.
sample-detectnet: setup
	$(SAMPLE) detectnet_kitti detectnet --gens 5 --target 0.095 --epochs 3 --recovery-epochs 35 --screen 8 --max-drop 0.3

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy evonnx adapters
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n 2

test-all: lint
	$(BIN)/python -m pytest -n 2 -m ''

clean:
	rm -rf $(VENV) runs
