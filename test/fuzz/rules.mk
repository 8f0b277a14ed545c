# Fuzzing: one target a file, replayed by make check on what it starts from and on inputs that once did harm, and run by
#
#     make fuzz SECONDS=60 [FUZZ=archive]
#
# with libFuzzer and the sanitizers, which needs clang.  What it learns stays in $(BUILD)/fuzz/corpus.

FUZZ_SUPPORT := test/fuzz/fuzz.c
FUZZ_ALL     := $(patsubst test/fuzz/%.c,%,$(filter-out $(FUZZ_SUPPORT) test/fuzz/replay.c test/fuzz/seeds.c,$(wildcard test/fuzz/*.c)))
FUZZ         ?= $(FUZZ_ALL)
SECONDS      ?= 60
FUZZ_OBJECTS  = $(filter-out %/main.o,$(APP_OBJECTS)) $(BUILD)/libawq.a
# Input ends at an unmapped page, and the application's messages are made but not printed: fuzz.c.
FUZZ_WRAP    := $(addprefix -Wl$(comma)--wrap=,mmap munmap cli_error cli_warning cli_library_error)
FUZZ_LINK     = $(CC) $(filter-out -MMD -MP,$(BASE)) -Ilibawq -Iexamples/awq -Itest $(CPPFLAGS) $(CFLAGS) $(LDFLAGS)
FUZZ_LIBS     = -pthread $(LIB_LIBS) $(APP_LIBS)

FUZZ_REPLAYS := $(FUZZ_ALL:%=$(BUILD)/test/fuzz/%)
$(FUZZ_REPLAYS): $(BUILD)/test/fuzz/%: test/fuzz/%.c $(FUZZ_SUPPORT) test/fuzz/replay.c test/fuzz/fuzz.h $(FUZZ_OBJECTS)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(FUZZ_LINK) $(FUZZ_WRAP) $(filter %.c %.o %.a,$^) -o $@ $(FUZZ_LIBS)

$(BUILD)/test/fuzz/seeds: test/fuzz/seeds.c test/support.h $(FUZZ_OBJECTS)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(FUZZ_LINK) $(filter %.c %.o %.a,$^) -o $@ $(FUZZ_LIBS)

check: $(FUZZ_REPLAYS) $(BUILD)/test/fuzz/seeds

# In a build of its own.  Loops of the CPU have no decisions to explore, and clang takes very long to instrument them: make asan
# watches those.
FUZZ_SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=all
fuzz:
	$(MAKE) BUILD=$(BUILD)/fuzz CC=clang CXX=clang++ CUDA=0 \
	    CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link $(FUZZ_SANITIZE)" \
	    KERNEL_CFLAGS="-O1 -g" \
	    CXXFLAGS="-O1 -g -fsanitize=fuzzer-no-link $(FUZZ_SANITIZE) -fno-sanitize=vptr" fuzz-run

ifneq ($(KERNEL_CFLAGS),)
$(filter $(BUILD)/libawq/cpu/%,$(LIB_OBJECTS)): override CFLAGS := $(KERNEL_CFLAGS)
endif

FUZZ_RUNNERS := $(FUZZ_ALL:%=$(BUILD)/run/%)
$(FUZZ_RUNNERS): $(BUILD)/run/%: test/fuzz/%.c $(FUZZ_SUPPORT) test/fuzz/fuzz.h $(FUZZ_OBJECTS)
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(FUZZ_LINK) -fsanitize=fuzzer $(FUZZ_WRAP) $(filter %.c %.o %.a,$^) -o $@ $(FUZZ_LIBS)

fuzz-run: $(FUZZ:%=$(BUILD)/run/%) $(BUILD)/test/fuzz/seeds
	@sh test/fuzz/run.sh $(SECONDS) $(FUZZ)

.PHONY: fuzz fuzz-run
