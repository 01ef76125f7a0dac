#!/bin/sh
# Everything that is checked without running the code. Usage: lint.sh BIN, the folder of the tools.
# All checks run, so that one run shows all there is to mend.
set -u
bin=$1
failed=""

check() {
    name=$1
    shift
    echo "== $name"
    "$@" || failed="$failed $name"
}

check ruff-check "$bin/ruff" check .
check ruff-format "$bin/ruff" format --check .
check mypy "$bin/mypy"
check imports "$bin/lint-imports" --no-cache
check includes "$bin/python" tools/check_c_includes.py
check clang-format sh -c 'find native transport tests/fuzz tests/arm64 -name "*.[ch]" -o -name "*.[ch]pp" | xargs "$0/clang-format" --dry-run -Werror' "$bin"

if [ -n "$failed" ]; then
    echo "lint failed:$failed"
    exit 1
fi
echo "lint passed"
