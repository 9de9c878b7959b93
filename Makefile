# Two commands: `make demo` and `make test`. Each sets up what it needs, once, in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
# A local Ray would otherwise turn token authentication on for every later `ray start` of this user.
export RAY_AUTH_MODE ?= disabled
# Threads of processes that share a core must sleep, not spin, while they wait for each other.
export OMP_WAIT_POLICY ?= PASSIVE
# Container images often set it. Each worker, and there are many, would compile the project anew when it starts.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo variants test test-all quick azurite chaos gpu lint format docs train-demo train-voc-fcn train-voc train-voc-gpu clean

setup: $(READY)

# uv because it installs torch's 5 GB in a minute rather than ten. Bytecode is compiled once here: where Python may not write
# it later, each worker would compile torch and Ray anew when it starts (8.5 s instead of 3.1 s).
$(READY): pyproject.toml constraints.txt setup.py native/densecrf_lattice.cpp
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
	    { echo "make: Python 3.11 to 3.14 is needed, $(PYTHON) is another; make PYTHON=python3.12 names one"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "make: $(PYTHON) has no venv; on Debian: apt install python3-venv"; exit 1; }
	@command -v c++ >/dev/null || { echo "make: a C++ compiler is needed; on Debian: apt install g++ python3-dev"; exit 1; }
	@echo "setting up .venv: about 3 GB to download, 7 GB on disk, one to three minutes on a fast line"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python \
	    --build-constraints constraints.txt -c constraints.txt -e '.[all,dev]'
	@$(BIN)/python -c 'import pydensecrf' 2>/dev/null || echo "without pydensecrf, which does not build on this Python: only --crf pydensecrf needs it"
	@touch $(READY)

demo: $(READY)
	$(BIN)/python -m examples.scenes --output data/demo --train 0 --val 24 --seed 1
	$(BIN)/deconvnet segment data/demo/JPEGImages --output runs/demo --weights demo
	$(BIN)/deconvnet evaluate runs/demo --ground-truth data/demo --split val --panels 24
	$(BIN)/deconvnet segment examples/photographs --output runs/photographs
	$(BIN)/deconvnet evaluate runs/photographs --panels 4
	@echo "scenes beside their masks: runs/demo/panels; photographs: runs/photographs/panels; a page on each: run/report.html"

# A process for each core, but for the tests that use Ray, which needs all cores for itself.
QUICK := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile -m "not ray and not s3 and not slow"

test: $(READY)
	$(QUICK)
	$(BIN)/python -m pytest -m "(ray or s3) and not slow"

# Also those that take long and are near to one of the others: more ways to lose a process, more pages of the docs. Nightly.
test-all: $(READY)
	$(BIN)/python -m pytest

# The tests that start neither Ray nor an S3 server.
quick: $(READY)
	$(QUICK)

# Microsoft's server for the tests of az://, which are skipped without it: 186 MB, from npm. 3.35 is the last for node before 21.
azurite: $(VENV)/azurite/node_modules/.bin/azurite-blob
$(VENV)/azurite/node_modules/.bin/azurite-blob: | $(READY)
	npm install --prefix $(VENV)/azurite --no-audit --no-fund --no-save --loglevel error azurite@3.35.0

# Kills the main job's driver, workers and nodes, on a faulty store, and counts what was lost: about a quarter of an hour.
chaos: $(READY)
	PYTHONPATH=tests $(BIN)/python tests/chaos.py

# Measures on a GPU everything that the docs claim of GPUs, in eight minutes at most. Elsewhere: python -m benchmarks.gpu.
gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu --output runs/gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The docs as a site, site/index.html; fails where a link or an anchor leads nowhere.
docs: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "the docs are in site/index.html; search works where a server shows them: python -m http.server --directory site"

# The table of docs/results.md: the demo's scenes with one thing changed at a time.
variants: $(READY)
	$(BIN)/python -m examples.scenes --output data/demo --train 0 --val 24 --seed 1
	$(BIN)/python jobs/ablate.py --data data/demo --split val --output runs/ablation

# Makes a checkpoint like the bundled one from nothing: about two hours on two cores with AMX.
TRAIN := $(BIN)/python jobs/train.py --training-set data/scenes_windows --width 0.125 --batch-size 32 --workers 2 \
    --precision bfloat16 --val-windows 400 --plateau-patience 9 --export-precision float16
train-demo: $(READY)
	$(BIN)/python -m examples.scenes --output data/scenes --train 1600 --val 80 --seed 0
	$(BIN)/python jobs/build_training_set.py --data data/scenes --output data/scenes_windows --windows-per-image 5 \
	    --any-windows-per-image 5
	$(TRAIN) --output runs/scenes --epochs 3 5 --learning-rate 0.03
	$(TRAIN) --output runs/scenes_2 --stages 2 --init runs/scenes/deconvnet.safetensors --epochs 1 1 --learning-rate 0.015
	$(TRAIN) --output runs/scenes_3 --stages 2 --init runs/scenes_2/deconvnet.safetensors --epochs 1 1 --learning-rate 0.003
	$(TRAIN) --output runs/scenes_4 --stages 2 --init runs/scenes_3/deconvnet.safetensors --epochs 1 1 --learning-rate 0.0006 \
	    --export-background 0.25
	cp runs/scenes_4/deconvnet.safetensors pipeline/checkpoints/demo.safetensors

# Makes a checkpoint like the bundled `voc-fcn`, in its place: three to four hours of one core. EXTRA: more folders with masks.
# SPLIT=trainval trains on everything, once nothing is left to be chosen: then no photograph here can judge the network.
VOC ?= data/VOC2012
EXTRA ?=
SPLIT ?= train
train-voc-fcn: $(READY)
	$(BIN)/python jobs/train_fcn.py --data $(VOC) $(EXTRA) --train-split $(SPLIT) --output runs/voc_fcn \
	    --steps 1750 --batch-size 32 --seed 0
	cp runs/voc_fcn/fcn.safetensors pipeline/checkpoints/voc_fcn.safetensors

# Makes a checkpoint like the bundled `voc`, in its place: an FCN trained a third as long, then the DeconvNet on it, each an hour and a
# quarter of one core. On the FCN of `make train-voc-fcn` the same steps give a worse DeconvNet (docs/results.md).
train-voc: $(READY)
	$(BIN)/python jobs/train_fcn.py --data $(VOC) $(EXTRA) --train-split $(SPLIT) --output runs/voc_start --steps 2356 --seed 0
	$(BIN)/python jobs/train_lite.py --data $(VOC) $(EXTRA) --train-split $(SPLIT) --fcn runs/voc_start/fcn.safetensors \
	    --output runs/voc --steps 2052 --seed 0
	cp runs/voc/deconvnet.safetensors pipeline/checkpoints/voc.safetensors

# With a GPU (two hours of an H100, by its measured step): the paper's network at its full width by its recipe, then the
# light one taught by it.
# VGG16=FILE: torchvision's VGG-16, the best start; without it from random weights, with windows that hold no object.
# Width and lengths are settings so that all of it can be tried small.
VGG16 ?=
WIDTH ?= 1
EPOCHS ?= 10 10
STEPS ?= 10000
PRECISION ?= bfloat16
START = $(if $(VGG16),--vgg16 $(VGG16),--width $(WIDTH))
train-voc-gpu: $(READY)
	$(BIN)/python jobs/build_training_set.py --data $(VOC) $(EXTRA) --train-split $(SPLIT) --output data/voc_windows \
	    $(if $(VGG16),,--any-windows-per-image 5)
	$(BIN)/python jobs/train.py --training-set data/voc_windows --output runs/voc_full $(START) --epochs $(EPOCHS) \
	    --precision $(PRECISION) --validate-every 500 --export-precision float16
	$(BIN)/python jobs/train_lite.py --data $(VOC) $(EXTRA) --train-split $(SPLIT) --output runs/voc_taught --steps $(STEPS) \
	    --teacher runs/voc_full/deconvnet.safetensors --precision $(PRECISION)

clean:
	rm -rf $(VENV) data/demo runs/demo runs/photographs
