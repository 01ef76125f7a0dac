#!/bin/sh
# Install the torch of constraints.txt. Usage: install_torch.sh PYTHON CONSTRAINTS [INDEX]
#
# Three sources are tried in this order, so that a fresh machine gets the small CPU build and a
# machine without the internet gets what it is set up for:
#   1. the CPU build, from wherever pip is configured to look (a mirror, a folder of wheels);
#   2. the CPU build from INDEX (the CPU index of pytorch.org when the Makefile calls this);
#   3. whatever build pip finds, on Linux x86-64 from PyPI the one for CUDA: several GB.
# An INDEX other than the default says which build is wanted: it is used directly.
set -u
python=$1
version=$(sed -n 's/^torch==//p' "$2")
index=${3-}
cpu_index=https://download.pytorch.org/whl/cpu

pip() { "$python" -m pip --disable-pip-version-check install --no-deps "$@"; }

if "$python" - "$version" <<'END'
import importlib.metadata, sys
try:
    sys.exit(importlib.metadata.version("torch").split("+")[0] != sys.argv[1])
except importlib.metadata.PackageNotFoundError:
    sys.exit(1)
END
then
    exit 0
fi

if [ "$index" = "$cpu_index" ]; then
    pip -q "torch==$version+cpu" 2>/dev/null && exit 0
    # Few retries: on a machine that cannot reach the index the answer does not change.
    pip --retries 1 --timeout 20 "torch==$version+cpu" --extra-index-url "$index" && exit 0
    echo "The CPU build of torch $version is not to be had from $index;" >&2
    echo "taking the build that pip finds, which may be a large one." >&2
    pip "torch==$version"
elif [ -n "$index" ]; then
    pip "torch==$version" --extra-index-url "$index"
else
    pip "torch==$version"
fi
