# For a fresh clone: `make demo` trains a model and saves sample images, `make test` runs all checks.
PYTHON ?= python3
BIN := .venv/bin
unexport PYTHONDONTWRITEBYTECODE # importing PyTorch takes twice as long without its bytecode

.PHONY: demo test lint types suite quick schema costs zoo docs clean

demo: .venv/installed
	$(BIN)/ulzoo train specs/emoji32_tiny.yaml --out runs/demo --fresh
	$(BIN)/ulzoo reconstruct runs/demo emoji32_tiny --out runs/demo/beside-released/reconstructions.png
	$(BIN)/ulzoo sample runs/demo emoji32_tiny --n 24 --out runs/demo/beside-released/samples.png
	$(BIN)/ulzoo sample runs/demo emoji32_tiny --n 48 --labels Smileys,People,Animals,Food --guidance 2 \
		--out runs/demo/beside-released/classes.png
	@printf '\n%s\n%s\n' "Images, compared with the released model: runs/demo/beside-released/" \
		"Metrics: runs/demo/figures.json    Model: runs/demo/model.safetensors"

test: .venv/installed-test
	@$(MAKE) --no-print-directory -j2 lint types suite

suite: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

quick: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

lint: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# mypy does not support setuptools' package-dir mapping, so symbolic links reproduce the installed layout.
types: .venv/installed-test
	@rm -rf build/types && mkdir -p build/types/ulzoo
	@ln -s $(CURDIR)/ulzoo/* $(CURDIR)/registry $(CURDIR)/cli $(CURDIR)/specs build/types/ulzoo/
	@ln -s $(CURDIR)/benchmarks build/types/
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir ../mypy -p ulzoo -p benchmarks

schema: .venv/installed
	$(BIN)/ulzoo schema --out specs/schema.json

# The costs that `ulzoo list` and `show` print, after a change of packaged specs or of networks.
costs: .venv/installed
	$(BIN)/python -m ulzoo.registry.zoo.overview

# The page of the released models, with pictures.
zoo: .venv/installed
	$(BIN)/python -m benchmarks zoo

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "the documentation: build/site/index.html"

# Modules are compiled to bytecode when they are first imported, not all when they are installed.
.venv/installed .venv/installed-test .venv/installed-docs: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --editable "$(EXTRA)"
	@touch .venv/installed $@

.venv/installed: EXTRA = .
.venv/installed-test: EXTRA = .[test]
.venv/installed-docs: EXTRA = .[docs]

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
