# make demo    build, and play the bundled recording: its notes, and how each pipeline did   (ARGS="FILE --json")
# make test    build, and run the native tests and the Python tests, with coverage           (PYTEST="-k ring")
# make bench   the benchmarks, beside their peers                                            (ARGS="hop")
# make lint    ruff, mypy --strict, and the committed stub against the native module
#
# make stub    write src/steadyflow/_native.pyi anew from the native module
# make prove   kill the data plane at every instruction, and search every order of its memory accesses
# make sanitize  the native tests under the address and undefined-behaviour sanitizers, and under the thread sanitizer
#                                                                                            (SANITIZERS=undefined)
# make venv    only the environment, .venv
# make clean   remove all that was made
#
# Needs python3 with venv, g++ and make; the rest is installed into .venv. Repeated calls do only what has changed.
# Tests run against the installed wheel, never against src/; `make test` gets a sound server for them, where it may.

VENV ?= .venv
BUILD ?= build
ARGS ?=
PYTEST ?=
# One build and run of the native tests for each.
SANITIZERS ?= address,undefined thread

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --constraint constraints.txt
# None of the native tests judges a time, so they may run beside each other.
CTEST := ctest --output-on-failure --no-tests=error --parallel $(shell nproc)
# Files *and* folders: a file that was removed changes only its folder.
SOURCES := CMakeLists.txt pyproject.toml LICENSE $(wildcard README.md) \
    $(shell find native src \( -path native/tests -o -name __pycache__ \) -prune -o -print)

.PHONY: demo test bench lint stub prove sanitize venv native-build native-test clean
.DELETE_ON_ERROR:
.SUFFIXES:

demo: $(VENV)/.installed $(VENV)/.extras-demo
	$(VENV)/bin/steadyflow demo $(ARGS)

bench: $(VENV)/.installed $(VENV)/.extras-bench
	$(VENV)/bin/steadyflow bench $(ARGS)

test: $(VENV)/.installed $(VENV)/.extras-dev native-test
	tools/install-audio-servers
	rm -rf $(BUILD)/coverage && mkdir -p $(BUILD)/coverage
	$(if $(PYTEST),$(VENV)/bin/python -m coverage run -m pytest $(PYTEST),$(VENV)/bin/python tools/run_tests.py)
	$(VENV)/bin/python -m coverage combine --quiet
	$(VENV)/bin/python -m coverage report --fail-under=$(if $(PYTEST),0,90)

lint: $(BUILD)/.wheel $(VENV)/.installed $(VENV)/.extras-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict
	diff -u src/steadyflow/_native.pyi $(BUILD)/wheel/_native.pyi \
	    || { echo "src/steadyflow/_native.pyi is not what the native module says: run make stub" >&2; exit 1; }

stub: $(BUILD)/.wheel
	cp $(BUILD)/wheel/_native.pyi src/steadyflow/_native.pyi

native-build: $(VENV)/.build-tools
	. $(VENV)/bin/activate && cmake -S . -B $(BUILD)/native -G Ninja --log-level=WARNING \
	    -DSTEADYFLOW_MODULE=OFF -DSTEADYFLOW_TESTS=ON -DSTEADYFLOW_WERROR=ON \
	    && cmake --build $(BUILD)/native

native-test: native-build
	. $(VENV)/bin/activate && $(CTEST) --test-dir $(BUILD)/native

prove: native-build
	$(BUILD)/native/stepper
	$(BUILD)/native/model_ring --whole

# The thread sanitizer of older compilers cannot live with much address randomisation, hence setarch.
sanitize: $(VENV)/.build-tools
	. $(VENV)/bin/activate && for sanitizers in $(SANITIZERS); do \
	    folder=$(BUILD)/sanitize-$$(echo $$sanitizers | tr , -) \
	    && cmake -S . -B $$folder -G Ninja --log-level=WARNING \
	        -DSTEADYFLOW_MODULE=OFF -DSTEADYFLOW_TESTS=ON -DSTEADYFLOW_SANITIZE=$$sanitizers \
	    && cmake --build $$folder \
	    && setarch --addr-no-randomize $(CTEST) --test-dir $$folder || exit 1; \
	done

venv: $(VENV)/.build-tools

clean:
	rm -rf $(VENV) $(BUILD) dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks examples tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# What CMake has found belongs to one interpreter, so a new environment means a new build.
$(VENV)/.created: tools/create-venv
	tools/create-venv $(VENV)
	rm -rf $(BUILD)
	touch $@

# In the environment rather than in one that pip makes for each build: so a build is incremental.
$(VENV)/.build-tools: $(VENV)/.created pyproject.toml constraints.txt
	$(VENV)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], "cmake", "ninja", sep="\n")' \
	    > $(VENV)/build-requirements.txt
	$(INSTALL) --requirement $(VENV)/build-requirements.txt
	touch $@

$(BUILD)/.wheel: $(VENV)/.build-tools $(SOURCES)
	rm -rf $(BUILD)/dist
	$(PIP) wheel . --no-deps --no-build-isolation --wheel-dir $(BUILD)/dist \
	    --config-settings=build-dir=$(BUILD)/wheel --config-settings=cmake.define.STEADYFLOW_WERROR=ON
	touch $@

$(VENV)/.installed: $(BUILD)/.wheel
	$(INSTALL) --force-reinstall --no-deps $(BUILD)/dist/steadyflow-*.whl
	touch $@

# After .installed and not instead of it: extras change only with pyproject.toml.
$(VENV)/.extras-demo: EXTRAS = audio,cli
$(VENV)/.extras-bench: EXTRAS = all
$(VENV)/.extras-dev: EXTRAS = all,dev
$(VENV)/.extras-%: pyproject.toml constraints.txt | $(VENV)/.installed
	$(INSTALL) "$$(echo $(BUILD)/dist/steadyflow-*.whl)[$(EXTRAS)]"
	touch $@
