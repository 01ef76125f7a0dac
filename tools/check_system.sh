#!/bin/sh
# Say what `make` cannot install by itself and is missing: Python with headers and venv, and a
# C compiler. Usage: check_system.sh PYTHON. Prints nothing and succeeds when all is there.
set -u
python=$1
missing=""

if ! command -v "$python" >/dev/null 2>&1; then
    missing="$missing
  - Python 3.10 or newer: \`$python\` is not there"
else
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        missing="$missing
  - Python 3.10 or newer: \`$python\` is $("$python" -V 2>&1); name another one with PYTHON=..."
    fi
    if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        missing="$missing
  - the Python modules venv and ensurepip"
    fi
    header=$("$python" -c 'import os, sysconfig; print(os.path.join(sysconfig.get_path("include"), "Python.h"))')
    if [ ! -f "$header" ]; then
        missing="$missing
  - the Python headers: there is no $header"
    fi
fi

# A compiler without the C library's headers is as good as none, so compile something.
cc=${CC:-cc}
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
printf '#include <stdio.h>\nint main(void) { return 0; }\n' > "$scratch/a.c"
if ! $cc "$scratch/a.c" -o "$scratch/a" >/dev/null 2>&1; then
    missing="$missing
  - a C compiler: \`$cc\` cannot build a program"
fi

[ -z "$missing" ] && exit 0
cat >&2 <<END
This cannot be built yet. Missing:$missing

Install it, then run the same command again:
  Debian, Ubuntu:  apt-get install build-essential python3-dev python3-venv
  Fedora, RHEL:    dnf install gcc gcc-c++ make python3-devel
END
exit 1
