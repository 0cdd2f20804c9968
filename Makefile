# `make` lists the targets. Everything runs in .venv, which `make setup` builds from the hashed locks.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.synced
ENVIRONMENT := PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)" PYTHONPATH= PYTHONHASHSEED=0 JUPYTER_PLATFORM_DIRS=1
LIBRARY := $(wildcard nbs/[0-9]*.ipynb)
GUIDES := nbs/start.ipynb $(wildcard nbs/guides/*.ipynb)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## make the environment in .venv from the hashed locks

$(STAMP): requirements_dev.txt requirements_uv.txt settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "emodetect needs Python 3.11 or newer, but $(PYTHON) is %d.%d; name another with make PYTHON=…" % sys.version_info[:2])'
	@echo "making $(VENV) with $$($(PYTHON) --version); the packages are about 2.5 GB to fetch the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes --only-binary :all: -r requirements_uv.txt
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes --allow-empty-requirements requirements_dev.txt requirements_uv.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(HOOKS)
	@touch $@

HOOKS = if test -e .git; then git config --local core.hooksPath .githooks; git config --local filter.notebook.clean '$(BIN)/python tools/notebooks.py --filter %f'; fi
.PHONY: hooks
hooks: setup ## have git clean notebooks and look at each commit, in this clone alone (`make setup` does it, too)
	@$(HOOKS)

COMMIT_ENVIRONMENT = $(ENVIRONMENT) PRE_COMMIT_HOME="$(CURDIR)/$(VENV)/pre-commit" KF_RULE_CACHE_DIR="$(CURDIR)/$(VENV)/kingfisher"
.PHONY: check-commit
check-commit: setup ## look at what is about to be committed: notebooks, package, style, secrets, large files
	@$(COMMIT_ENVIRONMENT) pre-commit run

.PHONY: check-all
check-all: setup ## the same for every file
	@$(COMMIT_ENVIRONMENT) pre-commit run --all-files

.PHONY: unlock
unlock: ## remove DVC's list of who reads and writes what, if a kill cut it off while it was written
	@test ! -e .dvc/tmp/rwlock || $(PYTHON) -m json.tool .dvc/tmp/rwlock > /dev/null 2>&1 || { rm .dvc/tmp/rwlock; echo ".dvc/tmp/rwlock was cut off by a kill; it is removed"; }

.PHONY: pipeline
pipeline: setup unlock ## run fetch, weights, prepare, train, calibrate, evaluate, export, report: only what changed
	@$(ENVIRONMENT) dvc repro $(STAGES)
	@echo "the model       models/emodetect.onnx"
	@echo "the report      reports/report.html: a verdict in plain words, and what it rests on"
	@echo "the figures     reports/evaluate/metrics.json"
	@echo "to read         reports/notebooks/*.ipynb: what each stage did, with its plots and pictures"
	@echo "to try          $(BIN)/emodetect predict data/prepared/test/images --save scratch/drawn"

.PHONY: experiments
experiments: setup ## compare DVC's experiments: a short table, and a page with pictures that needs no network
	@$(ENVIRONMENT) emodetect experiments --html scratch/experiments.html
	@echo "with pictures   scratch/experiments.html"

WEB := emodetect/web/vendor/ort.wasm.bundle.min.mjs
WEB_IF_NPM := $(if $(shell command -v npm),$(WEB))
.PHONY: web
web: $(WEB) ## fetch what the page needs to run the model in the browser, locked in package-lock.json (npm)

$(WEB): package-lock.json .npmrc
	@npm ci --silent
	@mkdir -p $(@D)
	@cp node_modules/onnxruntime-web/dist/{ort.wasm.bundle.min.mjs,ort-wasm-simd-threaded.wasm} $(@D)
	@touch $@

.PHONY: try-web
try-web:
	@test -e $(WEB) || ! command -v npm > /dev/null || $(MAKE) --no-print-directory web || echo "npm could not fetch the page's engine; the tests that need it say that they are skipped"

.PHONY: examples
examples: setup ## draw the page's example pictures
	@$(ENVIRONMENT) python tools/examples.py

.PHONY: screenshots
screenshots: pipeline $(WEB_IF_NPM) ## show the page in Chromium, as pictures in reports/page
	@$(ENVIRONMENT) python -m tests.screenshots
	@echo "reports/page/*.png: the page"

SUDO = $(if $(filter 0,$(shell id -u)),,sudo)
.PHONY: programs
programs: ## install Chromium and promtool, without which tests are skipped (apt, with sudo)
	@wanted=; command -v chromium chromium-browser google-chrome google-chrome-stable > /dev/null || wanted=chromium; \
	command -v promtool > /dev/null || wanted="$$wanted prometheus"; \
	if test -z "$$wanted"; then echo "programs: Chromium and promtool are here"; \
	elif command -v apt-get > /dev/null; then $(SUDO) apt-get update --quiet && $(SUDO) apt-get install --yes --quiet --no-install-recommends $$wanted; \
	else echo "programs: there is no apt here; until you install $$wanted, the tests that need it are skipped"; fi

.PHONY: test
test: setup try-web ## run the whole test suite and print the coverage
	@$(ENVIRONMENT) pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --cov --cov-report term-missing:skip-covered

.PHONY: soak
soak: setup ## kill the training at many random moments, let it go on, compare every bit (KILLS=… for more or fewer than 40)
	@$(ENVIRONMENT) python -m tests.soak $(if $(KILLS),--kills $(KILLS))

.PHONY: attack
attack: setup ## send the service hostile uploads and 10,000 mutations of pictures (MUTATIONS=… for more or fewer)
	@$(ENVIRONMENT) python -m tests.attack $(if $(MUTATIONS),--mutations $(MUTATIONS))

.PHONY: lab
lab: setup ## open JupyterLab on the notebooks
	@$(ENVIRONMENT) JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter" jupyter lab --notebook-dir . nbs/start.ipynb

.PHONY: notebooks
notebooks: setup ## execute every library notebook and guide in place, generate the package and README.md
	@$(ENVIRONMENT) nbdev_export
	@for notebook in $(LIBRARY) $(GUIDES); do echo $$notebook; $(ENVIRONMENT) jupyter nbconvert --log-level ERROR --ExecutePreprocessor.extra_arguments=--IPKernelApp.log_level=ERROR --to notebook --execute --inplace $$notebook; done
	@$(ENVIRONMENT) python tools/notebooks.py $(LIBRARY) $(GUIDES) || true
	@$(MAKE) --no-print-directory readme

.PHONY: readme
readme: setup ## make README.md from nbs/index.ipynb
	@$(ENVIRONMENT) jupyter nbconvert --log-level ERROR --ExecutePreprocessor.extra_arguments=--IPKernelApp.log_level=ERROR --to notebook --execute --inplace nbs/index.ipynb
	@$(ENVIRONMENT) python tools/notebooks.py nbs/index.ipynb || true
	@$(ENVIRONMENT) jupyter nbconvert --log-level ERROR --to markdown --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_input_tags remove_input --output-dir . --output README nbs/index.ipynb

.PHONY: types
types: setup ## check the types of the package
	@$(ENVIRONMENT) mypy

.PHONY: docs
docs: setup ## make the site in docs/_site; a broken link fails
	@$(ENVIRONMENT) PYTHONWARNINGS=ignore sphinx-build --quiet --fail-on-warning --keep-going --builder html --jobs auto --conf-dir docs --doctree-dir $(VENV)/doctrees . docs/_site/html
	@echo "docs/_site/html/index.html: the site"

.PHONY: params
params: setup ## compose params.yaml from configs/, as `dvc exp run` does
	@$(ENVIRONMENT) python -c 'from dvc.utils.hydra import compose_and_dump; compose_and_dump("params.yaml", "$(CURDIR)/configs", None, "config", "configs", [])'

COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header $(UPGRADE)
.PHONY: lock
lock: setup ## pin every dependency with hashes, from settings.ini (UPGRADE=--upgrade takes newer ones)
	@$(ENVIRONMENT) $(COMPILE) setup.py --extra train --output-file requirements.txt
	@$(ENVIRONMENT) $(COMPILE) setup.py --all-extras --constraint requirements.txt --output-file requirements_dev.txt
	@$(ENVIRONMENT) $(COMPILE) setup.py --extra serve --constraint requirements_dev.txt --output-file requirements_serve.txt
	@$(ENVIRONMENT) $(COMPILE) setup.py --extra train --extra cluster --constraint requirements_dev.txt --output-file requirements_cluster.txt
	@$(ENVIRONMENT) $(COMPILE) requirements_uv.in --constraint requirements_dev.txt --output-file requirements_uv.txt
	@$(ENVIRONMENT) $(COMPILE) requirements_fer.in --no-annotate --excludes <(echo facenet-pytorch) --output-file requirements_fer.txt

.PHONY: verify-data
verify-data: setup ## hold DVC's cache against its hashes: damaged files are named and set aside, the rest is put back
	@$(ENVIRONMENT) python -m emodetect.cache

.PHONY: repro-check
repro-check: setup ## run the pipeline in three fresh clones, the third killed and gone on with, and compare every output
	@$(ENVIRONMENT) python -m tests.repro_check

.PHONY: repeat
repeat: setup ## run every notebook, and count how many give again exactly what is stored in them
	@$(ENVIRONMENT) python benchmarks/repeat.py

.PHONY: bench-pipeline
bench-pipeline: setup ## time every stage in a fresh clone, and a second run
	@$(ENVIRONMENT) python benchmarks/pipeline.py

.PHONY: bench-finding
bench-finding: pipeline ## compare the ways to find faces: whole picture, face finder, both (SCENES=… for fewer)
	@$(ENVIRONMENT) python benchmarks/finding.py

.PHONY: bench-tracking
bench-tracking: pipeline ## compare how faces are followed in films with ByteTrack (FILMS=… for fewer)
	@$(ENVIRONMENT) python benchmarks/tracking.py

.PHONY: bench-startup
bench-startup: pipeline ## time `emodetect predict` against the same through PyTorch
	@$(ENVIRONMENT) python benchmarks/startup.py

.PHONY: bench-infer
bench-infer: pipeline ## time the detector with each engine and precision against YOLO.predict and the bare engine (ROUNDS=… for fewer than 9)
	@$(ENVIRONMENT) python benchmarks/infer.py

.PHONY: bench-evaluate
bench-evaluate: pipeline ## time the stages evaluate and report on 2,755 pictures, beside `yolo val` (PICTURES=… for fewer)
	@$(ENVIRONMENT) python benchmarks/evaluate.py

.PHONY: bench-energy
bench-energy: pipeline ## estimate with CodeCarbon what energy the training takes, and an answer beside YOLO.predict's (COUNTRY=FRA for another than DEU)
	@$(ENVIRONMENT) python benchmarks/energy.py

.PHONY: bench-score
bench-score: pipeline ## time and memory of batch scoring as the number of pictures grows (PICTURES=100,1000 for other numbers)
	@$(ENVIRONMENT) python benchmarks/score.py

.PHONY: bench-serve
bench-serve: pipeline ## load the service beside FastAPI with YOLO.predict and beside the bare engine (DURATION=20 for 20 s each instead of 3)
	@$(ENVIRONMENT) python benchmarks/serve.py

.PHONY: bench-commit
bench-commit: setup ## time the checks before a commit on a small change
	@$(COMMIT_ENVIRONMENT) python benchmarks/commit.py

.PHONY: bench-storage
bench-storage: setup ## time DVC on files and on one archive for each split (PICTURES=… for fewer than AffectNet has)
	@$(ENVIRONMENT) python benchmarks/storage.py $(if $(PICTURES),--pictures $(PICTURES))

.PHONY: bench-data
bench-data: setup ## time checking and preparing 25,000 pictures against the least that must be done, and against Ultralytics' scan (PICTURES=… for fewer)
	@$(ENVIRONMENT) python benchmarks/data.py

.PHONY: bench-cluster
bench-cluster: setup ## time a sweep on a Dask cluster of this machine against a plain loop
	@$(ENVIRONMENT) python benchmarks/cluster.py

.PHONY: bench-train
bench-train: setup ## time the training against `yolo train` and against the bare limit
	@$(ENVIRONMENT) python benchmarks/train.py $(OPTIONS)

.PHONY: bench-accuracy
bench-accuracy: pipeline ## compare the accuracy of the training with that of `yolo train`, seed by seed (SEEDS=… for fewer)
	@$(ENVIRONMENT) python benchmarks/accuracy.py

.PHONY: bench-gpu
bench-gpu: pipeline ## train on this machine's GPU in 32 and in 16 bits: speed, accuracy, and whether it repeats (OPTIONS='--device 1')
	@$(ENVIRONMENT) python benchmarks/gpu.py $(OPTIONS)

.PHONY: gate
gate: pipeline ## ask whether this model may go into production: each gate with its figure
	@$(ENVIRONMENT) emodetect gate

.PHONY: ml-test-score
ml-test-score: pipeline ## run the 28 checks of the ML Test Score, and print the table and the score
	@$(ENVIRONMENT) python tools/ml_test_score.py

FER := $(VENV)-fer
.PHONY: peer
peer: pipeline ## ask the package `fer`, in an environment of its own (800 MB to fetch), about the faces that were found; the report compares
	@test -x $(FER)/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python $(FER)
	@$(BIN)/uv pip sync --quiet --python $(FER)/bin/python --require-hashes requirements_fer.txt
	@PYTHONPATH= $(FER)/bin/python tools/fer_answers.py
	@$(ENVIRONMENT) dvc repro report

BASE ?= origin/main
.PHONY: compare
compare: setup ## what this branch changes in parameters, data and figures, against BASE=origin/main
	@$(ENVIRONMENT) python tools/compare.py $(BASE)

.PHONY: comment
comment: ## put the comparison under the pull request PULL_REQUEST, in the place of the same workflow's earlier one
	@name="$${GITHUB_WORKFLOW:-make comment}"; marker="<!-- emodetect: $$name -->"; body="$$marker"$$'\n'"# $$name"$$'\n\n'"$$(< reports/comparison.md)"; \
	comments='repos/{owner}/{repo}/issues'; earlier="$$(gh api --paginate "$$comments/$$PULL_REQUEST/comments" --jq ".[] | select(.body | startswith(\"$$marker\")) | .id")"; \
	if test -n "$$earlier"; then gh api --silent --method PATCH "$$comments/comments/$${earlier%%$$'\n'*}" --raw-field body="$$body"; \
	else gh api --silent --method POST "$$comments/$$PULL_REQUEST/comments" --raw-field body="$$body"; fi

.PHONY: dist
dist: setup $(WEB_IF_NPM) ## build the package into dist
	@$(ENVIRONMENT) uv build --quiet --no-build-isolation --out-dir dist

.PHONY: images
images: pipeline $(WEB_IF_NPM) ## build the images of the service and of the pipeline, and ask the service for its health (docker)
	@docker build --file dockerfiles/train.Dockerfile --tag emodetect-train .
	@docker build --file dockerfiles/api.Dockerfile --build-arg MODEL_SHA256="$$(sha256sum models/emodetect.onnx | cut -d ' ' -f 1)" --tag emodetect .
	@docker run --rm --read-only emodetect --version
	@container=$$(docker run --detach --read-only --publish 127.0.0.1::8000 emodetect); trap "docker rm --force $$container > /dev/null" EXIT; \
	curl --silent --fail --retry 20 --retry-connrefused --retry-all-errors --retry-delay 1 "http://$$(docker port $$container 8000)/readyz"

.PHONY: sbom
sbom: setup $(WEB_IF_NPM) ## write dist/*.cdx.json, CycloneDX lists of what each image and the wheel hold; the system's packages come from docker buildx build --sbom=true
	@$(ENVIRONMENT) python tools/sbom.py dist

.PHONY: audit
audit: setup ## ask PyPI and npm whether a locked package has a known hole
	@failed=; for lock in requirements*.txt; do echo $$lock; $(ENVIRONMENT) pip-audit --strict --disable-pip --require-hashes --progress-spinner off --requirement $$lock || failed="$$failed $$lock"; done; \
	if command -v npm > /dev/null; then echo package-lock.json; npm audit --omit=dev || failed="$$failed package-lock.json"; else echo "package-lock.json is not looked at: npm is not here"; fi; \
	test -z "$$failed" || { echo "audit: a known hole, or no answer, for$$failed" >&2; exit 1; }

.PHONY: notes
notes: ## print what CHANGELOG.md says of the tag TAG, which is v and the version in settings.ini; refused if one of them lacks it
	@version="$$(sed -n 's/^version = //p' settings.ini)"; \
	test "$$TAG" = "v$$version" || { echo "release: the tag is '$$TAG', but settings.ini says v$$version; change the version, commit, and tag that commit." >&2; exit 1; }; \
	notes="$$(awk -v version="$$version" '/^## / {ours = $$2 "" == version; next} ours' CHANGELOG.md)"; \
	test -n "$$notes" || { echo "release: CHANGELOG.md has nothing under '## $$version'; put that heading over what stands under Unreleased, commit, and tag that commit." >&2; exit 1; }; \
	echo "$$notes"

.PHONY: release
release: ## publish dist as the release of the tag TAG, with its notes
	@notes="$$($(MAKE) --no-print-directory notes)"; gh release create "$$TAG" dist/* --verify-tag --notes "$$notes"

.PHONY: clean
clean: ## remove what the pipeline and the tests made; the environment, data cache and sources stay
	@rm -rf data/raw data/prepared models/*.pt models/*.onnx models/calibration.json reports/notebooks reports/prepare reports/calibrate reports/export reports/train/plots reports/train/params.yaml reports/evaluate/plots reports/evaluate/answers.json reports/report.html reports/model_card.md scratch build dist .pytest_cache .ruff_cache .coverage .coverage.*
	@for left in {data,models}/.[!.]*; do test "$${left##*/}" = .gitignore || test -n "$$(git ls-files -- "$$left" 2> /dev/null)" || rm -rf "$$left"; done
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
