# What a developer or user types. Each goal does all of its own set-up.

VENV := .venv
PY := $(VENV)/bin/python
ALLOW_MISSING ?= ON
WERROR ?= OFF

.PHONY: build
build:
	@mkdir -p build
	@flock build/.lock $(VENV)/bin/cmake -S . -B build/dev -G Ninja \
	    -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV)/bin/ninja) \
	    -DPython_EXECUTABLE=$(abspath $(PY)) -DCOLL_IN_PLACE=ON -DCOLL_WERROR=$(WERROR) \
	    -DCOLL_ALLOW_MISSING=$(ALLOW_MISSING) > build/configure.log || (cat build/configure.log; false)
	@flock build/.lock $(VENV)/bin/cmake --build build/dev -- -k 0
	@printf '%s\n' $(CURDIR) 'import sys; sys.setdlopenflags(1)' > $$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/collectives_checkout.pth
