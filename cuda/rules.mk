# The CUDA backend: for GPUs, with nvcc, and for the executor of test/simt, with the host's compiler.
#
# CUDA=0 leaves both out; that is the default when CC makes code for another machine than this one.  NVCC, CUDA_HOME
# (whose include/ has NVIDIA's headers) and CUDA_ARCHS are respected.

CUDA       ?= $(if $(filter-out $(shell uname -m)%,$(shell $(CC) -dumpmachine)),0,1)
NVCC       ?= $(firstword $(shell command -v nvcc) $(wildcard $(CUDA_HOME)/bin/nvcc /usr/local/cuda/bin/nvcc))
CUDA_HOME  ?= $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
# Machine code for these, and PTX from which drivers make it for later ones.  80 serves 8.6, 8.7 and 8.9 too.
CUDA_ARCHS ?= 75 80 90a
CUDA_PTX   ?= 80 90
NVCCFLAGS  ?= -O3

CUDA_INCLUDE := $(firstword $(patsubst %/cuda_fp16.h,%,$(wildcard $(CUDA_HOME:%=%/include/cuda_fp16.h) \
    /usr/local/cuda/include/cuda_fp16.h /usr/include/cuda_fp16.h)))
CUDA_KERNELS := $(wildcard cuda/*.cu)
CUDA_HOST    := $(wildcard cuda/*.c)
APP_KERNELS  := $(wildcard examples/awq/cuda/*.cu)

# ---- libawq_cuda.so

CUDA_REPORTS := $(CUDA_KERNELS:%.cu=$(BUILD)/%.ptxas) $(APP_KERNELS:%.cu=$(BUILD)/%.ptxas)

ifneq ($(and $(filter-out 0,$(CUDA)),$(NVCC),$(wildcard cuda/backend.c)),)
all: $(BUILD)/libawq_cuda.so $(BUILD)/libawq_app_cuda.so
install: install-cuda
CUDA_TESTS := test/cuda/spills.sh
$(CUDA_TESTS): | $(CUDA_REPORTS)
export NVCC CUDA_REPORTS
endif

# Beside libawq.so, which looks for it there; awq finds its own as it finds libawq.so.
install-cuda: $(BUILD)/libawq_cuda.so $(BUILD)/libawq_app_cuda.so
	install -D -m 755 $< $(DESTDIR)$(LIBDIR)/libawq_cuda.so
	install -D -m 755 $(BUILD)/libawq_app_cuda.so $(DESTDIR)$(LIBDIR)/libawq_app_cuda.so

CUDA_OBJECTS   := $(CUDA_KERNELS:%.cu=$(BUILD)/%.o) $(CUDA_HOST:%.c=$(BUILD)/%.o)
CUDA_GENERATE   = $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$a,code=sm_$a) \
                  $(foreach a,$(CUDA_PTX),-gencode arch=compute_$a,code=compute_$a)

# The host application's kernels, which know of libawq's nothing but cuda/device.cuh.
APP_CUDA_OBJECTS := $(APP_KERNELS:%.cu=$(BUILD)/%.o)

$(BUILD)/libawq_app_cuda.so: $(APP_CUDA_OBJECTS) examples/awq/cuda/kernels.map
	$(call say,LD)
	$(Q)$(NVCC) -ccbin $(CXX) -shared -cudart static -Xlinker --version-script=examples/awq/cuda/kernels.map -Xlinker -z,defs \
	    $(APP_CUDA_OBJECTS) -o $@ -Xcompiler "$(filter -fsanitize=%,$(LDFLAGS) $(CFLAGS))"

# Beside each object what ptxas says of its kernels, for test/cuda/spills.sh.
$(BUILD)/%.o $(BUILD)/%.ptxas: %.cu
	@mkdir -p $(@D)
	@printf '  %-4s %s\n' NVCC $(BUILD)/$*.o
	$(Q)$(NVCC) -std=c++17 -ccbin $(CXX) -Iinclude -Ilibawq -Icuda -MMD -MP -MF $(BUILD)/$*.d -Xcompiler -Wall,-Wextra,-fPIC,-fvisibility=hidden \
	    -Xptxas -v $(CUDA_GENERATE) $(NVCCFLAGS) -c $< -o $(BUILD)/$*.o 2>$(BUILD)/$*.ptxas; status=$$?; \
	    grep -vE '^(ptxas info|    [0-9]+ bytes stack frame)' $(BUILD)/$*.ptxas >&2; exit $$status

$(BUILD)/cuda/%.o: cuda/%.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(LIBFLAGS) $(if $(filter 90a,$(CUDA_ARCHS)),-DCUDA_HAS_90A=1) -Ilibawq -isystem $(CUDA_INCLUDE) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

$(BUILD)/libawq_cuda.so: $(CUDA_OBJECTS) cuda/backend.map
	$(call say,LD)
	$(Q)$(NVCC) -ccbin $(CXX) -shared -cudart static -Xlinker --version-script=cuda/backend.map -Xlinker -z,defs $(CUDA_OBJECTS) -o $@ \
	    -Xcompiler "$(filter -fsanitize=%,$(LDFLAGS) $(CFLAGS))" -ldl -lm

# ---- the same sources on the executor, whose hooks see every access that -fsanitize=thread and =alignment instrument

SIMT_FLAGS    = -std=c++17 -DAWQ_SIMT -Iinclude -Ilibawq -Icuda -Itest/simt -isystem $(CUDA_INCLUDE) -MMD -MP \
                -fPIC -fvisibility=hidden -pthread -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas
SIMT_CXXFLAGS ?= -O1 -g
ifneq ($(findstring clang,$(shell $(CXX) --version 2>/dev/null)),)
SIMT_HOOKS    = -fsanitize=thread,alignment -mllvm -tsan-instrument-func-entry-exit=0 -mllvm -tsan-distinguish-volatile=1 \
                -fno-builtin-memset -fno-builtin-memcpy -Wno-pass-failed
else
SIMT_HOOKS    = -fsanitize=thread,alignment --param tsan-instrument-func-entry-exit=0 --param tsan-distinguish-volatile=1 \
                -fno-tree-loop-distribute-patterns
endif

SIMT_EXECUTOR := $(patsubst test/simt/%.cc,$(BUILD)/test/simt/%.o,$(filter-out test/simt/test_%,$(wildcard test/simt/*.cc)))
SIMT_BACKEND  := $(CUDA_KERNELS:cuda/%.cu=$(BUILD)/test/simt/cuda/%.o) $(CUDA_HOST:cuda/%.c=$(BUILD)/test/simt/cuda/%.o)
SIMT_APP      := $(APP_KERNELS:examples/awq/cuda/%.cu=$(BUILD)/test/simt/app/%.o)
SIMT_TESTS    := $(patsubst test/simt/%.cc,$(BUILD)/test/simt/%,$(wildcard test/simt/test_*.cc))

ifeq ($(filter-out 0,$(CUDA)),)
SIMT_TESTS :=
else ifeq ($(CUDA_INCLUDE),)
SIMT_TESTS := $(BUILD)/test/simt/no_cuda_headers
else
SIMT_TESTS += test/simt/kernels.sh test/simt/quantize.sh test/simt/application.sh test/cuda/driver.sh
# A sanitizer that watches stacks does not know the executor's fibres, which this one has in its own program.
SIMT_TESTS += $(if $(findstring -fsanitize,$(CFLAGS)),,$(BUILD)/test/simt/streams)
check: $(BUILD)/test/cuda/kernels $(BUILD)/test/cuda/quantize $(BUILD)/test/cuda/application
$(SIMT_TESTS): | $(BUILD)/libawq_cuda_simt.so
endif

$(BUILD)/test/simt/no_cuda_headers:
	@mkdir -p $(@D)
	printf '#!/bin/sh\necho "NO CUDA KERNEL WAS TESTED: cuda_fp16.h was not found; set CUDA_HOME"\nexit 77\n' >$@
	chmod +x $@

$(BUILD)/test/simt/%.o: test/simt/%.cc
	@mkdir -p $(@D)
	$(call say,CXX)
	$(Q)$(CXX) $(SIMT_FLAGS) -O2 -g -c $< -o $@

$(BUILD)/test/simt/test_%.o: test/simt/test_%.cc
	@mkdir -p $(@D)
	$(call say,CXX)
	$(Q)$(CXX) $(SIMT_FLAGS) $(SIMT_HOOKS) $(SIMT_CXXFLAGS) -c $< -o $@

$(BUILD)/test/simt/cuda/%.o: cuda/%.cu
	@mkdir -p $(@D)
	$(call say,CXX)
	$(Q)$(CXX) $(SIMT_FLAGS) $(SIMT_HOOKS) $(SIMT_CXXFLAGS) -x c++ -c $< -o $@

$(BUILD)/test/simt/app/%.o: examples/awq/cuda/%.cu
	@mkdir -p $(@D)
	$(call say,CXX)
	$(Q)$(CXX) $(SIMT_FLAGS) $(SIMT_HOOKS) $(SIMT_CXXFLAGS) -x c++ -c $< -o $@

$(BUILD)/test/simt/cuda/%.o: cuda/%.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(LIBFLAGS) -DAWQ_SIMT -DCUDA_HAS_90A=1 -Ilibawq -isystem $(CUDA_INCLUDE) $(SIMT_CXXFLAGS) -c $< -o $@

# For AWQ_CUDA_BACKEND and AWQ_APP_CUDA: one library, because both must run on one executor.
SIMT_MAPS := cuda/backend.map examples/awq/cuda/kernels.map

$(BUILD)/libawq_cuda_simt.so: $(SIMT_BACKEND) $(SIMT_APP) $(SIMT_EXECUTOR) $(SIMT_MAPS)
	$(call say,LD)
	$(Q)$(CXX) -shared $(SIMT_MAPS:%=-Wl,--version-script=%) -Wl,-z,defs $(SIMT_BACKEND) $(SIMT_APP) $(SIMT_EXECUTOR) -o $@ -pthread -ldl -lm

$(BUILD)/test/simt/test_executor: $(BUILD)/test/simt/test_executor.o $(SIMT_EXECUTOR)
	$(call say,LD)
	$(Q)$(CXX) $^ -o $@ -pthread -ldl -lm

.PRECIOUS: $(BUILD)/test/simt/%.o $(BUILD)/test/simt/app/%.o $(BUILD)/test/simt/cuda/%.o

# ---- every kernel against sums in double, or the CPU backend: on the executor in 'make check', on the machine's GPU in 'make check-gpu'

$(BUILD)/test/cuda/%: test/cuda/%.c $(BUILD)/libawq.a
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(BASE) -Ilibawq $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $< -o $@ $(BUILD)/libawq.a -pthread $(LIB_LIBS)

# Streams and graphs, with the backend's objects linked in: the program and they share one runtime.
$(BUILD)/test/simt/streams.o: test/cuda/streams.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(BASE) -DAWQ_SIMT -Ilibawq -isystem $(CUDA_INCLUDE) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

$(BUILD)/test/simt/streams: $(BUILD)/test/simt/streams.o $(SIMT_BACKEND) $(SIMT_EXECUTOR) $(BUILD)/libawq.a
	$(call say,LD)
	$(Q)$(CXX) $(LDFLAGS) $^ -o $@ -pthread $(LIB_LIBS)

$(BUILD)/test/cuda/streams.o: test/cuda/streams.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(BASE) -Ilibawq -isystem $(CUDA_INCLUDE) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

$(BUILD)/test/cuda/streams: $(BUILD)/test/cuda/streams.o $(CUDA_OBJECTS) $(BUILD)/libawq.a
	$(call say,LD)
	$(Q)$(NVCC) -ccbin $(CXX) -cudart static $^ -o $@ -Xcompiler -pthread $(LIB_LIBS)

# The host application on such a device.
$(BUILD)/test/cuda/application: test/cuda/application.c $(filter-out %/main.o,$(APP_OBJECTS)) $(BUILD)/libawq.so
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(BASE) -Iexamples/awq -Itest $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(filter %.c %.o,$^) -o $@ -L$(BUILD) -lawq \
	    -Wl,-rpath,'$$ORIGIN/../..' -lcmocka $(APP_LIBS)

GPU_PROGRAMS := $(addprefix $(BUILD)/test/cuda/,kernels quantize streams application)
GPU_BACKENDS := $(BUILD)/libawq_cuda.so $(BUILD)/libawq_app_cuda.so

check-gpu: $(GPU_PROGRAMS) $(GPU_BACKENDS)
	@sh test/cuda/check.sh

# The same and 'awq bench' for a machine that has a GPU but neither compiler nor libraries: all in one directory.
bundle-gpu: $(GPU_PROGRAMS) $(GPU_BACKENDS) $(BUILD)/awq
	@rm -rf $(BUILD)/gpu && mkdir -p $(BUILD)/gpu/lib $(BUILD)/gpu/test/cuda
	@cp $(GPU_PROGRAMS) $(BUILD)/gpu/test/cuda && cp $(GPU_BACKENDS) $(BUILD)/awq $(BUILD)/$(SONAME) $(BUILD)/gpu
	@ldd $(GPU_PROGRAMS) $(BUILD)/awq | awk '$$3 ~ /^\// && $$1 !~ /^lib(c|m|dl|pthread|rt|stdc\+\+|gcc_s|awq)\./ { print $$3 }' | \
	    sort -u | xargs -I{} cp -L {} $(BUILD)/gpu/lib
	@strip --strip-unneeded $(BUILD)/gpu/*.so* $(BUILD)/gpu/awq $(BUILD)/gpu/test/cuda/*
	@echo "BUILD=$(BUILD)/gpu sh test/cuda/check.sh"
	@echo "LD_LIBRARY_PATH=$(BUILD)/gpu/lib $(BUILD)/gpu/awq bench --device cuda"

.PHONY: check-gpu bundle-gpu
