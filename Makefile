# `make run` starts the portal, `make test` tests it. Both set up what they need.
# PORT, HOST, DATA, DATABASE_URL, CELERY_BROKER_URL, MEDIA_ROOT, VIEWER_TARBALL and WORKERS may be given: make run PORT=8001 DATA=/srv/readroom WORKERS=infer=2

SHELL := /bin/bash
PYTHON ?= python3
export PORT HOST DATA DATABASE_URL CELERY_BROKER_URL MEDIA_ROOT VIEWER_TARBALL PYTHON

# Nothing listens there: what needs no database must not start one.
NOWHERE := postgres://nobody@127.0.0.1:9/not-started

.DEFAULT_GOAL := help
.PHONY: help run demo test lint format bench bench-inference lock clean install install-dev

help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 14

install: ## the virtual environment, from the lock file
	@"$$PYTHON" portal/runtime/bootstrap.py requirements.lock

install-dev:
	@"$$PYTHON" portal/runtime/bootstrap.py requirements-dev.lock

run: install ## start the portal on PORT (8000) with its data in DATA (./data)
	@exec .venv/bin/python manage.py up --with-parent $(if $(WORKERS),--workers '$(WORKERS)')

demo: install ## load the demonstration into the portal of DATA: real samples, synthetic phantoms, a model, an evaluation
	@exec .venv/bin/python manage.py demo

test: install-dev ## the whole test suite
	@exec .venv/bin/python -m tests.run $(ARGUMENTS)

lint: install-dev ## style, layers, types, migrations, scripts
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/lint-imports --no-cache
	@.venv/bin/python -m mypy
	@DJANGO_SETTINGS_MODULE=portal.settings.test DATABASE_URL=$(NOWHERE) CELERY_BROKER_URL=redis://127.0.0.1:9/0 \
		.venv/bin/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	@if command -v node >/dev/null; then find frontend -name '*.js' -not -path '*/vendor/*' -not -path '*/dist/*' -print0 | xargs -0 -r -n1 node --check; else echo "node is not installed: the syntax of the scripts was not checked"; fi

format: install-dev ## put the code into its form
	@.venv/bin/python -m ruff check --fix .
	@.venv/bin/python -m ruff format .

BENCH ?= ../shared/bench
BASE ?= http://127.0.0.1:8000/dicomweb
BENCH_FOLDER ?= /tmp/readroom-bench

bench: install-dev ## measure a DICOMweb root: BASE=address TOKEN=… [PID=of the server] [SALT=8 digits] [TESTS=…] [FILL=…]
	@test -f "$(BENCH)/bench_dicomweb.py" || { echo "There is no $(BENCH)/bench_dicomweb.py; give its folder as BENCH=…"; exit 1; }
	@test -f "$(BENCH_FOLDER)/data/manifest.json" || .venv/bin/python "$(BENCH)/bench_dicomweb.py" gen --out "$(BENCH_FOLDER)/data"
	@.venv/bin/python "$(BENCH)/bench_dicomweb.py" run --base "$(BASE)" --data "$(BENCH_FOLDER)/data" --out "$(BENCH_FOLDER)/result.json" \
		--salt "$(or $(SALT),$(shell date +%m%d%H%M))" $(if $(TOKEN),--header "Authorization: Token $(TOKEN)") $(if $(PID),--server-pid $(PID)) \
		$(if $(TESTS),--tests $(TESTS)) $(if $(FILL),--fill $(FILL))

STUDIES ?= 6

bench-inference: install-dev ## measure what a job adds to inference beside a bare MONAI loop: STUDIES=6
	@.venv/bin/python -m benchmarks.inference_overhead --studies $(STUDIES)

lock: install-dev ## choose the versions of all packages anew
	@.venv/bin/python portal/runtime/lock_versions.py

clean: ## remove the virtual environment and caches; data stay
	rm -rf .venv .venv.lock .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
