# What a developer or user types. Each goal does all of its own set-up: the virtual environment
# in .venv, what it needs from PyPI, and the build. Stamps in .venv make a second run quick.
#
#   make demo        run the main job: four peers train a small model together
#   make test        run the tests                    (TESTS=tests/test_x.py for some of them)
#   make test-full   the tests that take longer: whole products, thousands of histories
#   make test-arm64  the kernels of an arm64 build, emulated, against those of this machine (Debian:
#                    apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
#   make histories   10,000 random histories of the control plane (COLLECTIVES_SEED: from where on)
#   make soak        random faults in real runs for 20 minutes (COLLECTIVES_SEED: from where on)
#   make model       explore every history of a few peers: the agreement, for half an hour
#   make bench       measure beside Gloo and Open MPI: tables and plots in report/bench (OPERATION=)
#   make bench-peers install what that comparison needs; no root
#   make lint        format, types, warnings, import and include direction
#   make build       compile the C core into the checkout
#   make format      reformat Python and C
#   make wheel       build the wheel and the sdist into dist/
#   make test-wheel  install the wheel into clean environments of every Python at hand
#   make fuzz        feed everything that parses bytes from outside with what a fuzzer makes up
#   make sanitize    run the tests on a core built with ASan+UBSan (SANITIZE=thread: TSan), a
#                    quarter of an hour; on a machine with nothing else to do, as tests have deadlines

PYTHON ?= python3
# Where the CPU build of torch comes from; see tools/install_torch.sh for what is tried and when.
# TORCH_INDEX= (empty) takes what pip finds by itself.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

VENV := .venv
PY := $(VENV)/bin/python
STAMPS := $(VENV)/.stamps
PIP := $(PY) -m pip --disable-pip-version-check -q
# Warnings are errors. A compiler newer than ours may know new ones: WERROR=OFF builds all the same.
WERROR ?= ON
DEMO ?=
TESTS ?=
MODEL ?=
# FUZZ="hello codec" for some of the targets; FUZZ_RUNS: how many inputs all C targets try together,
# and the Python ones a tenth of it.
FUZZ ?=
FUZZ_RUNS ?= 10000000
# Test files run at once: many of them wait for processes most of the time.
JOBS ?= 3
SANITIZE ?= address
# What `make bench` measures; BENCH="--sizes 1M --time 0.2" for a short one.
OPERATION ?= all_reduce
BENCH ?=
BENCH_RANKS ?= 2 4 8
BENCH_TRANSPORTS ?= shm tcp

# Two `make build` at once (two terminals, one checkout) must not share a build folder's log.
LOCKED := $(shell command -v flock >/dev/null 2>&1 && echo flock build/.lock)

.PHONY: demo test test-full test-arm64 histories soak model bench bench-peers lint build format wheel test-wheel
.PHONY: torch-backend sanitize fuzz clean
.DELETE_ON_ERROR:

# ---- environment ------------------------------------------------------------------------

# A .venv whose Python was removed or moved is made anew; one that works is taken as it is.
USABLE := $(shell $(PY) -c 'import pip' 2>/dev/null && echo yes)
$(STAMPS)/venv: $(if $(USABLE),,remake)
ifneq ($(USABLE),yes)
	@tools/check_system.sh $(PYTHON)
	@echo "Making the virtual environment $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
endif
	@mkdir -p $(STAMPS)
	@touch $@
.PHONY: remake
remake:

$(STAMPS)/torch: constraints.txt tools/install_torch.sh $(STAMPS)/venv
	@echo "Installing torch"
	@tools/install_torch.sh $(PY) constraints.txt "$(TORCH_INDEX)"
	@touch $@

# $(call install,EXTRAS): what pyproject.toml lists for the package and these extras.
define install
	@echo "Installing what $(@F) needs"
	@$(PY) tools/dependencies.py $(1) > $(STAMPS)/$(@F).txt
	@$(PIP) install -c constraints.txt -r $(STAMPS)/$(@F).txt
	@touch $@
endef

LISTS := pyproject.toml constraints.txt tools/dependencies.py

$(STAMPS)/build: $(LISTS) $(STAMPS)/venv
	$(call install,build)
$(STAMPS)/demo: $(LISTS) $(STAMPS)/torch
	$(call install,torch plot)
$(STAMPS)/test: $(LISTS) $(STAMPS)/torch
	$(call install,test build)
$(STAMPS)/bench-peers: $(LISTS) $(STAMPS)/torch
	$(call install,bench-peers)
$(STAMPS)/fuzz: $(LISTS) $(STAMPS)/venv
	$(call install,fuzz)
$(STAMPS)/lint: $(LISTS) $(STAMPS)/torch
	$(call install,test lint)

# ---- build --------------------------------------------------------------------------------

CONFIGURE = $(VENV)/bin/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV)/bin/ninja) \
    -DPython_EXECUTABLE=$(abspath $(PY)) -DCOLL_WERROR=$(WERROR)

build: $(STAMPS)/build
	@tools/check_system.sh $(PY)
	@mkdir -p build
	@$(LOCKED) $(CONFIGURE) -B build/dev -DCOLL_IN_PLACE=ON > build/configure.log 2>&1 \
	    || (cat build/configure.log; false)
	@$(LOCKED) $(VENV)/bin/cmake --build build/dev
	@$(PY) tools/use_checkout.py

# ---- goals --------------------------------------------------------------------------------

demo: build $(STAMPS)/demo
	@$(VENV)/bin/collectives demo $(DEMO)

# The C++ part of the PyTorch backend, into the user's cache: a minute, once.
torch-backend: build $(STAMPS)/test
	@$(VENV)/bin/collectives build-torch

test: torch-backend
	@mkdir -p report
	@$(PY) -m pytest -p no:cacheprovider -n $(JOBS) --dist loadfile \
	    -m "not full" --junitxml=report/junit.xml $(TESTS)

lint: build $(STAMPS)/lint
	@tools/lint.sh $(VENV)/bin

format: $(STAMPS)/lint
	@$(VENV)/bin/ruff check --fix --quiet . || true
	@$(VENV)/bin/ruff format --quiet .
	@find native transport tests/fuzz tests/arm64 -name '*.[ch]' -o -name '*.[ch]pp' | xargs $(VENV)/bin/clang-format -i

wheel: $(STAMPS)/build
	@tools/check_system.sh $(PY)
	@rm -rf dist
	@$(PY) -m build --outdir dist .

bench-peers: $(STAMPS)/bench-peers

bench: build bench-peers
	@mkdir -p report/bench
	@set -e; for transport in $(BENCH_TRANSPORTS); do for ranks in $(BENCH_RANKS); do \
	    to=report/bench/$(OPERATION)-$$transport-$$ranks; \
	    echo "== $(OPERATION), $$ranks ranks, $$transport"; \
	    $(VENV)/bin/collectives bench $(OPERATION) --ranks $$ranks --transport $$transport \
	        --compare gloo,mpi --json $$to.json --plot $$to.png $(BENCH); \
	done; done
	@$(PY) tools/bench_tables.py report/bench/*.json > report/bench/tables.md
	@echo "The tables are in report/bench/tables.md, the plots beside them"

test-full: torch-backend
	@COLLECTIVES_TEST_FULL=1 $(PY) -m pytest -p no:cacheprovider tests/test_bit_identity.py
	@$(PY) -m pytest -p no:cacheprovider -m full --ignore tests/packaging tests
	@$(MAKE) histories

test-arm64: build $(STAMPS)/test
	@$(PY) -m pytest -p no:cacheprovider -rs -m full tests/arm64

# MODEL="large broadcast" for the configurations whose names hold these words, without mutants.
model: build $(STAMPS)/test
	@PYTHONPATH=tests $(PY) -m model $(MODEL)

soak: build $(STAMPS)/test
	@$(VENV)/bin/collectives chaos soak --minutes 20 --seed $${COLLECTIVES_SEED:-1000} \
	    --json report/soak.json

histories: build $(STAMPS)/test
	@COLLECTIVES_HISTORIES=$${COLLECTIVES_HISTORIES:-10000} \
	    COLLECTIVES_SEED=$${COLLECTIVES_SEED:-1000} \
	    $(PY) -m pytest -p no:cacheprovider -rP tests/membership/test_histories.py

test-wheel: build $(STAMPS)/test
	@$(PY) -m pytest -p no:cacheprovider tests/packaging --all-pythons

sanitize: $(STAMPS)/build torch-backend
	@tools/sanitize.sh $(VENV)/bin $(SANITIZE) "$(CONFIGURE)" $(TESTS)

fuzz: build $(STAMPS)/fuzz
	@$(PY) tools/fuzz.py --runs $(FUZZ_RUNS) $(FUZZ)

clean:
	@rm -rf build dist report collectives/_native/*.so \
	    collectives/_native/shaper collectives/_native/wan
