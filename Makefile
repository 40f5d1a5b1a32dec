# Prints its targets when called without one. Everything runs in .venv, built on first use from environment.yml;
# an active environment that has the packages, or PYTHON=/path/to/python, is used instead, as it is.
PROFILE ?= demo
stages := 01_prepare_data 02_pretrain_generator 03_train_gan 04_evaluate
executed := $(stages) 05_speed 06_ablations 07_claims

# --- which Python -----------------------------------------------------------------------------------------------
active := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),$(CONDA_PREFIX))
complete := $(and $(wildcard $(active)/lib/python3*/site-packages/torch),\
                  $(wildcard $(active)/lib/python3*/site-packages/papermill))
ifdef PYTHON
  python := $(PYTHON)
else ifneq ($(and $(active),$(complete)),)
  python := '$(subst ','\'',$(active))/bin/python'
  export PATH := $(active)/bin:$(PATH)
  export PYTHONNOUSERSITE := 1
else
  python := .venv/bin/python
  ready := .venv/installed
  export PATH := $(CURDIR)/.venv/bin:$(PATH)
endif

# This checkout and the environment's packages, in kernels, too: a PYTHONPATH of the shell would stand before them.
export PYTHONPATH := $(CURDIR)
export PYTHONHASHSEED := 0
export PYTHONUTF8 := 1
# Kernel "python3" is this environment's, not one that the user has registered under that name.
export JUPYTER_PREFER_ENV_PATH := 1
unexport JUPYTER_PATH

# --- what depends on what ---------------------------------------------------------------------------------------
run := runs/$(PROFILE)
out := results/$(PROFILE)
profile := notebooks/profiles/$(PROFILE).yaml
# The rooms that notebooks import; the command, the site and grading are not among them.
package := $(wildcard sprl_utils/*.py sprl_utils/original/*.py sprl_utils/extras/*.py)
comparison := $(wildcard sprl_utils/comparison/*.py)
profiles := $(basename $(notdir $(wildcard notebooks/profiles/*.yaml)))
ifneq ($(filter reproduce clean,$(MAKECMDGOALS)),)
  # One name of a profile, and no pattern or path: `clean` deletes the folder of that name.
  ifneq (1 $(PROFILE),$(words $(PROFILE)) $(filter $(PROFILE),$(profiles)))
    $(error PROFILE: expected one of $(profiles), found $(if $(PROFILE),$(PROFILE),nothing))
  endif
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help reproduce bench study rehearsal site grade claims course course-check exercises test notebooks lab \
        pins clean

help:  ## Print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile
	@echo "Profiles: $(profiles). Python:" $(python)

reproduce: $(stages:%=$(out)/%.ipynb)  ## Run the four notebooks into results/<profile>/ (PROFILE=demo)
	@echo "Done: notebooks, tables and figures are in $(out)/"
	@$(python) -m sprl_utils.grading.reproduction $(PROFILE)

bench:  ## Time the original procedure against this study's into results/bench/
	@$(MAKE) --no-print-directory PROFILE=bench results/bench/05_speed.ipynb

# The runs are what counts as done: results/ may have come with a clone, without the runs behind it.
$(executed:%=$(out)/%.ipynb): $(out)/%.ipynb: $(run)/%.ipynb
	@mkdir -p $(out) && cp $< $@

$(executed:%=$(run)/%.ipynb): $(run)/%.ipynb: notebooks/%.py $(profile) $(package) | $(ready)
	@mkdir -p $(run) $(out) && rm -f $(out)/$*.failed.ipynb
	@$(python) -m sprl_utils.profiles $(profile) $< > $(run)/$*.yaml
	@$(python) -m jupytext --quiet --to ipynb --update-metadata '{"jupytext": null}' --output $(run)/$*.input.ipynb $<
	@echo "$*: running with profile $(PROFILE); the bar counts cells, and one cell may train for long"
	@$(python) -m papermill -k python3 --cwd notebooks -f $(run)/$*.yaml $(run)/$*.input.ipynb $(run)/$*.running.ipynb \
	  || { mv -f $(run)/$*.running.ipynb $(out)/$*.failed.ipynb; \
	       echo "$*: failed; read $(out)/$*.failed.ipynb, then run make again: it goes on from here" >&2; exit 1; }
	@$(python) -m sprl_utils.provenance $(run)/$*.running.ipynb $@ && rm $(run)/$*.running.ipynb

$(run)/01_prepare_data.ipynb: $(wildcard data_manifest/*.csv)
$(run)/02_pretrain_generator.ipynb: $(run)/01_prepare_data.ipynb
$(run)/03_train_gan.ipynb: $(run)/02_pretrain_generator.ipynb
$(run)/04_evaluate.ipynb: $(run)/03_train_gan.ipynb
$(run)/05_speed.ipynb: $(comparison)
$(run)/06_ablations.ipynb: $(run)/01_prepare_data.ipynb $(comparison)

study:  ## Train mDCSRN and EDSR on many people, 4x4 and 2x2, and test on others (resumable)
	@$(MAKE) --no-print-directory reproduce PROFILE=study_4x4
	@$(MAKE) --no-print-directory reproduce PROFILE=study_2x2
	@$(MAKE) --no-print-directory PROFILE=study_slices runs/study_slices/02_pretrain_generator.ipynb
	@$(python) -m sprl_utils.extras.weights
	@$(python) -m sprl_utils.scans.thick
	@$(MAKE) --no-print-directory PROFILE=ablations results/ablations/06_ablations.ipynb
	@$(MAKE) --no-print-directory PROFILE=comparison results/comparison/06_ablations.ipynb
	@$(MAKE) --no-print-directory PROFILE=people results/people/06_ablations.ipynb
	@$(MAKE) --no-print-directory claims

rehearsal: $(ready)  ## Run synthetic heads of HCP's size through every stage, timed, into results/rehearsal/
	@$(python) -m sprl_utils.comparison.rehearsal

site: $(ready)  ## Write a site of all runs in results/ that opens without server and network
	@$(python) docs/build.py

grade: $(ready)  ## Check the study (FULL=1: the demo, too); with SUBMITTED=folder grade students' exercises
ifdef SUBMITTED
	@$(python) -m sprl_utils.grading.course grade '$(subst ','\'',$(SUBMITTED))'
else
	@$(python) -m sprl_utils.grading.grade $(if $(FULL),--full)
endif

course: $(ready)  ## Write the exercises, without solutions, for students into runs/course/release/
	@$(python) -m sprl_utils.grading.course release

course-check: $(ready)  ## Grade the exercises' solutions and common mistakes; fail where points are wrong
	@$(python) -m sprl_utils.grading.course check

exercises: $(ready)  ## Refresh the exercises' .ipynb from their .py and execute them
	@for source in notebooks/exercises/source/*/*.py; do $(call refresh,$${source%.py}) || exit 1; done

claims: $(ready)  ## Write results/study/claims.md from the tables in results/ (notebook 07)
	@$(call refresh,notebooks/07_claims)

test: $(ready)  ## Lint, unit tests, and every notebook executed once on the smoke profile
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -c 'import importlinter.cli as cli; cli.lint_imports_command()'
	$(python) -m pytest
	rm -rf runs/smoke results/smoke
	$(python) -m pytest -p no:cacheprovider --nbval-lax --nbval-current-env $(executed:%=notebooks/%.ipynb)

# Bring one notebook in step with its .py and execute it where it lies.
define refresh
$(python) -m jupytext --quiet --update --to ipynb $(1).py && \
$(python) -m nbconvert --to notebook --execute --inplace --ExecutePreprocessor.kernel_name=python3 \
  --ExecutePreprocessor.record_timing=False $(1).ipynb && \
$(python) -m jupytext --quiet --update-metadata '{"language_info": null}' $(1).ipynb && \
$(python) -m sprl_utils.provenance $(1).ipynb $(1).ipynb
endef

# One after the other, because each reads the files of those before it.
notebooks: $(ready)  ## Refresh notebooks/*.ipynb from their .py and execute them on the smoke profile
	rm -rf runs/smoke results/smoke
	@for notebook in $(executed:%=notebooks/%); do $(call refresh,$$notebook) || exit 1; done

lab: $(ready)  ## Open JupyterLab (LAB="--no-browser --port=8889" for its options)
	$(python) -m jupyterlab $(LAB)

pins:  ## Print the exact versions that .venv is built from
	@sed -n 's/^ *- *\([^ ]*==[^ ]*\) *$$/\1/p' environment.yml

clean:  ## Delete runs/<profile>/; the downloaded heads and results/ stay
	rm -rf $(run)

# --- the environment --------------------------------------------------------------------------------------------
# PATH begins with .venv/bin, whose python cannot build the folder that it lies in anew.
.venv/installed: environment.yml
	@PATH="$${PATH#"$$PWD/.venv/bin:"}"; \
	for python in python3.11 python3 python3.12 python3.13; do \
	  $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && found=$$python && break; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Python: expected 3.11 or newer with venv, found $$(python3 --version 2>&1)" >&2; exit 1; fi; \
	echo "Building .venv with $$($$found --version), about three minutes"; \
	$$found -m venv --clear .venv
	@$(MAKE) --silent --no-print-directory pins > .venv/pins.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r .venv/pins.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
