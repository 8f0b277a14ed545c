# make          libawq.so, libawq.a and the host application awq
# make check    all tests;  make demo  the whole quantise-then-infer flow on the embedded model
# make install  PREFIX=/usr/local DESTDIR=
# make bench-cpu, bench-gpu   speed; see docs/performance.md
#
# make check-full  the tests, then all of them again under sanitizers
#
# CC, CXX, CFLAGS, LDFLAGS and BUILD are respected; V=1 shows the commands.  Nothing probes the host, so CC=aarch64-linux-gnu-gcc just works.

CC       ?= cc
CXX      ?= c++
AR       ?= ar
BUILD    ?= build
PREFIX   ?= /usr/local
LIBDIR   ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BINDIR   ?= $(PREFIX)/bin
CFLAGS   ?= -O3 -g
CXXFLAGS ?= -O2 -g

VERSION_PART = $(shell sed -n 's/^\#define AWQ_VERSION_$(1) //p' include/awq.h)
MAJOR   := $(call VERSION_PART,MAJOR)
VERSION := $(MAJOR).$(call VERSION_PART,MINOR).$(call VERSION_PART,PATCH)
SONAME  := libawq.so.$(MAJOR)

WARNINGS = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
# No contraction: what the profiles promise bit for bit must not depend on the compiler's taste for FMA.
BASE     = -std=c11 -D_GNU_SOURCE -Iinclude -MMD -MP -ffp-contract=off -fno-math-errno $(WARNINGS)
LIBFLAGS = $(BASE) -fPIC -fvisibility=hidden -pthread

LIB_SOURCES  := $(wildcard libawq/*.c libawq/*/*.c)
LIB_OBJECTS  := $(LIB_SOURCES:%.c=$(BUILD)/%.o)
APP_SOURCES  := $(wildcard examples/awq/*.c)
APP_SHIMS    := $(wildcard examples/awq/*.cc)
APP_OBJECTS  := $(APP_SOURCES:%.c=$(BUILD)/%.o) $(APP_SHIMS:%.cc=$(BUILD)/%.o)
LESSONS      := $(patsubst examples/%.c,$(BUILD)/examples/%,$(wildcard examples/*.c))
TSAN_TESTS   := $(addprefix $(BUILD)/test/test_,threads context sharing status archive checkpoint calibration quantize search linear)
TESTS        := $(patsubst test/%.c,$(BUILD)/test/%,$(wildcard test/test_*.c test/app_*.c))

TEST_LIBS = -lcmocka
LIB_LIBS  = -ljansson -lz -ldl -lm
APP_LIBS  = -ljansson -lpcre2-8 -lsentencepiece -ldl -lm -lstdc++

ifeq ($(V),)
Q   := @
say = @printf '  %-4s %s\n' $(1) $@
endif

all: $(BUILD)/libawq.so $(BUILD)/libawq.a $(BUILD)/awq $(LESSONS)

include cuda/rules.mk

# What the build needs is looked for once; .ci/deps installs it where it may and names it where it may not.
$(BUILD)/deps.ok: .ci/deps
	@mkdir -p $(BUILD)
	@CC="$(CC)" sh .ci/deps
	@touch $@

$(BUILD)/libawq/%.o: libawq/%.c | $(BUILD)/deps.ok
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(LIBFLAGS) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

$(BUILD)/libawq.a: $(LIB_OBJECTS)
	$(call say,AR)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/$(SONAME): $(LIB_OBJECTS) libawq/libawq.map
	$(call say,LD)
	$(Q)$(CC) -shared -Wl,-soname,$(SONAME) -Wl,--version-script=libawq/libawq.map -Wl,-z,defs -Wl,-z,relro \
	    $(CFLAGS) $(LDFLAGS) $(LIB_OBJECTS) -o $@ -pthread $(LIB_LIBS)

$(BUILD)/libawq.so: $(BUILD)/$(SONAME)
	$(Q)ln -sf $(SONAME) $@

$(BUILD)/examples/awq/%.o: examples/awq/%.c | $(BUILD)/deps.ok
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(BASE) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

$(BUILD)/examples/awq/%.o: examples/awq/%.cc | $(BUILD)/deps.ok
	@mkdir -p $(@D)
	$(call say,CXX)
	$(Q)$(CXX) -std=c++17 -Iinclude -MMD -MP -Wall -Wextra $(CPPFLAGS) $(CXXFLAGS) -c $< -o $@

$(BUILD)/awq: $(APP_OBJECTS) $(BUILD)/libawq.so
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) $(APP_OBJECTS) -o $@ -L$(BUILD) -lawq -Wl,-rpath,'$$ORIGIN:$$ORIGIN/../lib' $(APP_LIBS)

$(BUILD)/examples/%: examples/%.c $(BUILD)/libawq.so
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(BASE) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $< -o $@ -L$(BUILD) -lawq -Wl,-rpath,'$$ORIGIN/..' -lm

# Calls that test_faults has fail.
FAULT_WRAPS := malloc calloc realloc posix_memalign strdup vasprintf asprintf free open write close fsync rename renameat2 mkdir \
    ftruncate fstat madvise lseek opendir readdir mmap fopen pthread_create dlopen
comma := ,
$(BUILD)/test/test_faults: private LDFLAGS += $(FAULT_WRAPS:%=-Wl$(comma)--wrap=%)
$(BUILD)/test/test_faults: test/faults.h

# Tests of units link the static library, where internal names can be reached.
$(BUILD)/test/%: test/%.c $(BUILD)/libawq.a
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(BASE) -Ilibawq -Itest $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $< -o $@ $(BUILD)/libawq.a -pthread $(TEST_LIBS) $(LIB_LIBS)

# Vectors of other AWQ implementations, through one runner.
GOLDEN_SOURCES := $(wildcard test/golden*.c) test/npy.c test/sha256.c
$(BUILD)/test/golden: $(GOLDEN_SOURCES) test/golden.h test/npy.h test/sha256.h $(BUILD)/libawq.a
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(filter-out -MMD -MP,$(BASE)) -Ilibawq -Itest $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(filter %.c,$^) -o $@ $(BUILD)/libawq.a -pthread \
	    $(LIB_LIBS)

# Tests of the host application's units link its objects and the shared library, which is all that it knows.
$(BUILD)/test/app_%: test/app_%.c $(filter-out %/main.o,$(APP_OBJECTS)) $(BUILD)/libawq.so
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(BASE) -Iexamples/awq -Itest $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(filter %.c %.o,$^) -o $@ -L$(BUILD) -lawq \
	    -Wl,-rpath,'$$ORIGIN/..' -lcmocka $(APP_LIBS)

# ---- checks

CHECK_SCRIPTS := $(wildcard test/*.sh test/ffi/*.sh test/abi/*.sh)
export BUILD CC CXX

check: all $(TESTS) $(SIMT_TESTS) $(CUDA_TESTS) $(BUILD)/test/golden $(BUILD)/block
	@test/run $(TESTS) $(SIMT_TESTS) $(CUDA_TESTS) $(BUILD)/test/golden $(CHECK_SCRIPTS)

check-full: check asan ubsan tsan

# The loops of the CPU alone, each as a share of one that only reads; BENCH=NAME for some of them.
bench-kernels: $(BUILD)/test/test_cpu_kernels
	@$< bench $(BENCH)

check-golden: $(BUILD)/test/golden
	@$<

demo: all
	@sh examples/demo.sh

# Whole products: a table on standard output, all figures as JSON and a roofline.  BENCH adds options, such as
# BENCH="--threads 1 --rows 1,16".
bench-cpu: all
	@$(BUILD)/awq bench --json $(BUILD)/bench-cpu.json --svg $(BUILD)/bench-cpu.svg $(BENCH)

# One block of a 7B model, calibrated, searched, clipped and quantised; BENCH="--sketch 0" and the like.
$(BUILD)/block: examples/bench/block.c $(BUILD)/libawq.so
	$(call say,LD)
	$(Q)$(CC) $(BASE) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $< -o $@ -L$(BUILD) -lawq -Wl,-rpath,'$$ORIGIN' -lm

bench-block: $(BUILD)/block
	@$< $(BENCH)

# Beside ggml, from a source tree of it, and ONNX Runtime, from Python.
bench-peers: all
	@GGML="$(GGML)" sh examples/bench/peers.sh $(BENCH)

bench-gpu: all
	@$(BUILD)/awq bench --device cuda --json $(BUILD)/bench-gpu.json --svg $(BUILD)/bench-gpu.svg $(BENCH)

# The whole suite under the address and undefined-behaviour sanitizers, in a build of its own.
SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=all
asan:
	$(MAKE) BUILD=$(BUILD)/asan CFLAGS="-O1 -g -fno-omit-frame-pointer $(SANITIZE)" CXXFLAGS="-O1 -g $(SANITIZE)" \
	    SANITIZE="$(SANITIZE)" check

# The undefined-behaviour sanitizer alone, on code optimised as it is shipped.
UNDEFINED = -fsanitize=undefined,float-cast-overflow -fno-sanitize-recover=all
ubsan:
	$(MAKE) BUILD=$(BUILD)/ubsan CFLAGS="-O2 -g $(UNDEFINED)" CXXFLAGS="-O2 -g -fsanitize=undefined" SANITIZE="$(UNDEFINED)" check

# The thread sanitizer over the tests in which threads meet.
tsan:
	$(MAKE) BUILD=$(BUILD)/tsan CFLAGS="-O1 -g -fsanitize=thread" tsan-check

tsan-check: $(TSAN_TESTS)
	@test/run $^

include test/fuzz/rules.mk

# Lines and branches of libawq/ that the tests of units and the golden vectors reach.
coverage:
	$(MAKE) BUILD=$(BUILD)/coverage CUDA=0 CFLAGS="-O0 -g --coverage" coverage-run

coverage-run: $(TESTS) $(BUILD)/test/golden
	@find $(BUILD) -name '*.gcda' -delete
	@test/run $(filter $(BUILD)/test/test_%,$(TESTS)) $(BUILD)/test/golden
	@python3 test/coverage.py $(BUILD)

# clang-tidy by .clang-tidy, cppcheck by .cppcheck.  The CPU's loops, which take clang-tidy very long, are left to the compilers.
LINT_SOURCES := $(filter-out libawq/cpu/%,$(LIB_SOURCES))
lint:
	clang-tidy -quiet $(LINT_SOURCES) -- -std=c11 -D_GNU_SOURCE -Iinclude -Ilibawq
	cppcheck --std=c11 --enable=warning,portability --inline-suppr --suppressions-list=.cppcheck --suppress=missingIncludeSystem \
	    --quiet --error-exitcode=1 -D_GNU_SOURCE -Iinclude -Ilibawq $(LINT_SOURCES)

# What must agree with awq.h is made from it, and committed: the bindings' declarations, and the interface that test/abi holds
# the library to.
bindings:
	python3 test/ffi/header.py ctypes include/awq.h >examples/python/awq/_declarations.py
	sh examples/rust/awq-sys/generate.sh >examples/rust/awq-sys/src/bindings.rs

abi-baseline: $(BUILD)/libawq.so
	cp include/awq.h test/abi/awq-0.1.h
	abidw --exported-interfaces-only --drop-private-types --headers-dir include --no-corpus-path --no-comp-dir-path \
	    --no-show-locs --no-elf-needed --no-parameter-names --out-file test/abi/awq.abi $<

# ---- installation

install: install-headers install-static install-shared install-pc install-cmake install-bin

install-headers:
	install -D -m 644 include/awq.h $(DESTDIR)$(INCLUDEDIR)/awq.h

install-static: $(BUILD)/libawq.a
	install -D -m 644 $< $(DESTDIR)$(LIBDIR)/libawq.a

install-shared: $(BUILD)/libawq.so
	install -D -m 755 $(BUILD)/$(SONAME) $(DESTDIR)$(LIBDIR)/libawq.so.$(VERSION)
	ln -sf libawq.so.$(VERSION) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libawq.so

# Paths in the .pc file are relative to where it lies, so that an installed tree can be moved.
install-pc:
	@mkdir -p $(DESTDIR)$(LIBDIR)/pkgconfig
	sed -e 's|@VERSION@|$(VERSION)|' \
	    -e 's|@PREFIX_FROM_PC@|$(shell realpath -m --relative-to=$(LIBDIR)/pkgconfig $(PREFIX))|' \
	    -e 's|@LIBDIR@|$(LIBDIR:$(PREFIX)/%=$${prefix}/%)|' \
	    -e 's|@INCLUDEDIR@|$(INCLUDEDIR:$(PREFIX)/%=$${prefix}/%)|' \
	    pkgconfig/awq.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/awq.pc

# So are those of the CMake package: find_package(awq) gives awq::awq and, with the static library, awq::awq_static.
install-cmake:
	@mkdir -p $(DESTDIR)$(LIBDIR)/cmake/awq
	sed -e 's|@SONAME@|$(SONAME)|' \
	    -e 's|@INCLUDEDIR_FROM_HERE@|$(shell realpath -m --relative-to=$(LIBDIR)/cmake/awq $(INCLUDEDIR))|' \
	    pkgconfig/awqConfig.cmake.in >$(DESTDIR)$(LIBDIR)/cmake/awq/awqConfig.cmake
	sed 's|@VERSION@|$(VERSION)|' pkgconfig/awqConfigVersion.cmake.in >$(DESTDIR)$(LIBDIR)/cmake/awq/awqConfigVersion.cmake

install-bin: $(BUILD)/awq
	install -D -m 755 $< $(DESTDIR)$(BINDIR)/awq

uninstall:
	rm -f $(DESTDIR)$(INCLUDEDIR)/awq.h $(DESTDIR)$(LIBDIR)/libawq.* $(DESTDIR)$(LIBDIR)/libawq_cuda.so $(DESTDIR)$(LIBDIR)/libawq_app_cuda.so \
	    $(DESTDIR)$(LIBDIR)/pkgconfig/awq.pc \
	    $(DESTDIR)$(BINDIR)/awq
	rm -rf $(DESTDIR)$(LIBDIR)/cmake/awq

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

clean:
	rm -rf $(BUILD)

.PHONY: all check check-full check-golden bench-kernels bench-cpu bench-block bench-peers bench-gpu demo asan ubsan tsan tsan-check \
    coverage coverage-run lint clean install \
    install-headers install-static install-shared install-pc install-cmake install-bin install-cuda uninstall bindings abi-baseline
.DELETE_ON_ERROR:
