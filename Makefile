# `make demo` and `make test` need nothing but this make and Python 3.11 or 3.12: .venv is set up on the way.

.DEFAULT_GOAL := help
.PHONY: help demo test bench check clean

UV_VERSION := 0.13.9
BIN := .venv/bin
READY := .venv/.goldwax-ready

help:
	@echo "make demo    a year of flights becomes fresh Silver and Gold tables"
	@echo "make test    every check, and all tests but the slow ones"
	@echo "make bench   the benchmarks"
	@echo "make check   lint, format, types and layout"
	@echo "make clean   remove the environment, the caches and the demo's data"

demo: $(READY)
	@$(BIN)/goldwax demo

test: check
	@$(BIN)/pytest -m "not slow" -n auto --dist loadfile

bench: $(READY)
	@$(BIN)/python -m benchmarks
	@echo "bench: done"

check: $(READY)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "check: run $(BIN)/ruff format" >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@echo "check: ok"

clean:
	@rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache demo-data dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean: done"

# A candidate is run, not only found: a shim of pyenv may stand on the PATH and fail.
define SET_UP
set -eu
usable() {
    "$$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}
if ! usable $(BIN)/python; then
    python=
    for candidate in python3.12 python3.11 python3 python; do
        if usable "$$candidate"; then python=$$candidate; break; fi
    done
    if [ -z "$$python" ]; then
        echo "setup: no usable Python 3.11 or 3.12 found (tried python3.12, python3.11, python3, python)." >&2
        echo "setup: install one, with its venv module (Debian and Ubuntu: python3-venv), and put it on the PATH." >&2
        exit 1
    fi
    echo "setup: creating .venv with $$("$$python" --version)"
    "$$python" -m venv --clear .venv
fi
if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then
    $(BIN)/python -m ensurepip >/dev/null
fi
echo "setup: installing uv $(UV_VERSION)"
$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
echo "setup: installing what uv.lock says"
UV_PROJECT_ENVIRONMENT=.venv UV_PYTHON_DOWNLOADS=never \
    $(BIN)/python -m uv sync --frozen --quiet --python $(BIN)/python
touch $(READY)
echo "setup: done"
endef
export SET_UP

$(READY): uv.lock pyproject.toml
	@sh -c "$$SET_UP"
