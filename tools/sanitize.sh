#!/bin/sh
# Run the tests on a core built with sanitizers. Usage: sanitize.sh BIN address|thread CMAKE [TESTS]
# The package is copied beside the sanitized libraries, so the checkout keeps its own.
set -eu
bin=$(cd "$1" && pwd)
kind=$2
configure=$3
shift 3
build=build/$kind
$configure -B "$build" -DCOLL_SANITIZE="$kind" -DCOLL_IN_PLACE=OFF >/dev/null
"$bin/cmake" --build "$build"
package=$PWD/$build/package
rm -rf "$package"
mkdir -p "$package"
cp -r collectives "$package/"
rm -f "$package"/collectives/_native/*.so "$package"/collectives/_native/shaper \
    "$package"/collectives/_native/wan
"$bin/cmake" --install "$build" --prefix "$package" >/dev/null

# Python itself is not sanitized, so the run time must come first, and its own leaks are not ours.
case $kind in
address) runtime=libasan.so; export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 ;;
thread) runtime=libtsan.so; export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 ;;
*) echo "SANITIZE is address or thread" >&2; exit 2 ;;
esac
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
LD_PRELOAD=$(${CC:-cc} -print-file-name=$runtime)
export LD_PRELOAD PYTHONPATH="$package" PYTHONSAFEPATH=1
[ $# -gt 0 ] && [ -n "$1" ] || set -- tests --ignore tests/packaging --ignore tests/test_doctor.py
exec "$bin/python" -c '
import sys, collectives, pytest
assert "package" in collectives.__file__, collectives.__file__
sys.exit(pytest.main(sys.argv[1:]))' -p no:cacheprovider --timeout 600 "$@"
