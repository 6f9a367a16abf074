PYTHON ?= python3
# Without compiling, which takes a third of the time: Python compiles what it imports, once if it may keep the outcome.
unexport PYTHONDONTWRITEBYTECODE
INSTALL = install --quiet --disable-pip-version-check --no-compile -c constraints.txt

# A file's tests in one process, and files in the order and groups of tests/conftest.py
PARALLEL = -n auto --dist loadgroup --no-loadscope-reorder

.PHONY: help demo test test-slow test-clients test-oldest campaigns style quality docs bench bench-all bench-check
.DEFAULT_GOAL := help

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*##  */make \1\t/p' Makefile | expand -t 20

demo: .venv/.demo  ## train on four synthetic languages, label, train again, share: about 11 minutes on two CPU cores
	PATH="$(CURDIR)/.venv/bin:$$PATH" recipes/demo/run.sh

test: .venv/.complete  ## the tests, a few minutes on 2 cores
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest $(PARALLEL)

test-slow: .venv/.complete  ## the tests that take long, such as training with sharded weights
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m slow $(PARALLEL)

test-clients: .venv-clients/.complete  ## programs of other people on our models
	OMP_NUM_THREADS=1 .venv-clients/bin/python -m pytest -m slow $(PARALLEL) tests/clients

# what meets those libraries most: models and their code elsewhere, inputs, object storage, pipelines, runs, labels, pushes
OLDEST = $(addprefix tests/, test_storage.py audio/test_addresses.py corpora/test_downloads.py \
	corpora/test_own_speech.py ctc_models/test_transformers_ctc.py data/test_batches.py inference/test_pipeline.py \
	inference/test_pipeline_inputs.py labels/test_labelling.py labels/test_object_storage.py \
	labels/test_publishing.py training/test_loop.py \
	$(addprefix model/test_, configuration_mlpl.py feature_extraction_mlpl.py modeling_mlpl.py \
	processing_mlpl.py remote_code.py))

test-oldest: .venv-oldest/.complete  ## some of the tests, with the oldest libraries that pyproject.toml allows
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest $(PARALLEL) $(OLDEST)

campaigns: .venv/.complete  ## thousands of damaged files, kill -9 at every step, volumes, and what came of it: half an hour
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m slow -s tests/campaigns

style: .venv/.complete  ## format the code, and mend what ruff can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

quality: .venv/.complete  ## check style and types without changing a file
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: .venv/.complete  ## build the reference documentation in site/; .venv/bin/mkdocs serve shows it as you write
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict  # with --quiet no warning would be an error

# minutes each, or far more memory than a laptop has to spare
LONG = $(addprefix benchmarks/bench_, audio.py data.py evaluation.py gpu.py inference.py int8.py labelling.py processes.py \
	whisper_labels.py)
BENCHMARKS = $(sort $(wildcard benchmarks/bench_*.py))

bench: .venv/.complete  ## measure against other programs: the benchmarks that take up to about 3 minutes
	@set -e; for script in $(filter-out $(LONG), $(BENCHMARKS)); do echo "== $$script"; .venv/bin/python $$script; done

bench-all: .venv/.complete  ## measure with all benchmarks
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; .venv/bin/python $$script; done

bench-check: .venv/.complete  ## measure as `bench` does, and fail if a ratio is below 80 % of the committed one
	.venv/bin/python benchmarks/check.py $(filter-out $(LONG), $(BENCHMARKS))

# The demo, and the app that shows its model, need less than the tests do, whose installation serves them, too. The files
# are touched last: an installation that was interrupted is done again.
.venv/.demo: EXTRAS = demo,app
.venv/.complete: EXTRAS = demo,dev,docs
.venv/.demo .venv/.complete: pyproject.toml constraints.txt
	@echo "Installing into .venv, about 2 minutes ..."
	$(PYTHON) -m venv .venv
	-.venv/bin/python -m pip $(INSTALL) --upgrade pip  # it finds what fits in half the time of Python 3.11's own
	.venv/bin/python -m pip $(INSTALL) -e ".[$(EXTRAS)]"
	@touch .venv/.demo $@

# an environment on top of .venv, whose packages it sees after its own
define on_top
	.venv/bin/python -m venv --clear --without-pip $(@D)
	$(@D)/bin/python -c "import site; from pathlib import Path; \
		packages, = Path('.venv').resolve().glob('lib/python*/site-packages'); \
		Path(site.getsitepackages()[0], 'venv.pth').write_text(f'import site; site.addsitedir({str(packages)!r})\n')"
endef

.venv-clients/.complete: .venv/.complete tests/clients/requirements.txt
	$(on_top)
	$(@D)/bin/python -m pip $(INSTALL) -r tests/clients/requirements.txt
	$(@D)/bin/python -m pip $(INSTALL) --no-deps "pyctcdecode>=0.5"
	@touch $@

.venv-oldest/.complete: .venv/.complete tests/oldest_releases.py
	$(on_top)
	.venv/bin/python tests/oldest_releases.py > $(@D)/requirements.txt
	$(@D)/bin/python -m pip $(INSTALL) -r $(@D)/requirements.txt
	@touch $@
