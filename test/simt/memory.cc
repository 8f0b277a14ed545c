/* Device memory: allocations, the hooks that see each load and store of a kernel, and the race detector.
 *
 * All device memory, and the shared memory of resident blocks, lies in one reserved range of addresses, page by page
 * owned by an allocation, with at least one page between two that nobody owns.  Beside it lies a shadow, which for
 * every 8 bytes remembers the last accesses: by whom, when, and to which of the bytes.  A new access must be ordered
 * after each of those that it conflicts with, by barriers of the block, __syncwarp, or a release and an acquire that
 * read it.
 *
 * New memory, shared memory of a new block, and the target of a copy under way hold NaNs (bytes of 0xff). */
#include "executor.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

namespace simt {

static constexpr size_t page_bytes = 4096;
static constexpr size_t region_bytes = 16ull << 30;
static constexpr size_t pages = region_bytes / page_bytes;

/* One access to 8 bytes. */
struct Slot {
    uint64_t tag : 8, block : 16, lane : 10, time : 20, bytes : 8, write : 1, atomic : 1;
};
static_assert(sizeof(Slot) == 8, "an access takes 8 bytes");
static constexpr int slots_per_word = 4;
static constexpr size_t word_bytes = 8, shadow_bytes_per_byte = sizeof(Slot) * slots_per_word / word_bytes;
static constexpr uint32_t tags = 1 << 8, last_time = (1 << 20) - 1;

struct Allocation {
    unsigned char *data; /* null when free */
    size_t size;
    Block *block;        /* whose shared memory it is */
    bool shared;
};

static unsigned char *region;
static uint32_t *owners; /* by page */
static Slot *shadow;
static size_t used_pages; /* from the start of the region */
static size_t arena_page; /* from here on arenas of shared memory, which stay open to the host */
static std::vector<Allocation> allocations(1);
static std::vector<uint32_t> free_numbers, free_arenas;
static std::map<size_t, size_t> free_pages; /* runs of pages by where they begin */
static bool closed;
static struct sigaction previous_action;

/* ---- the region */

static void on_fault(int number, siginfo_t *information, void *)
{
    unsigned char *address = static_cast<unsigned char *>(information->si_addr);
    if (address >= region && address < region + region_bytes) {
        static const char text[] = "simt: the host touched device memory, which only kernels and copies may\n";
        (void)!write(2, text, sizeof text - 1);
    }
    sigaction(number, &previous_action, nullptr); /* the access is made again, and ends the program as it would have */
}

static void *reserve(size_t size, int protection)
{
    void *memory = mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("simt: address space");
        abort();
    }
    return memory;
}

static void open_region()
{
    if (region != nullptr) return;
    region = static_cast<unsigned char *>(reserve(region_bytes, PROT_READ | PROT_WRITE));
    owners = static_cast<uint32_t *>(reserve(pages * sizeof *owners, PROT_READ | PROT_WRITE));
    shadow = static_cast<Slot *>(reserve(region_bytes * shadow_bytes_per_byte, PROT_READ | PROT_WRITE));
    madvise(shadow, region_bytes * shadow_bytes_per_byte, MADV_HUGEPAGE);
    used_pages = 1;
    arena_page = pages;
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, &previous_action);
}

void protect(bool protect)
{
    open_region();
    if (closed == protect) return;
    mprotect(region, used_pages * page_bytes, protect ? PROT_NONE : PROT_READ | PROT_WRITE);
    closed = protect;
}

/* 'count' pages in a row, the last of them left without an owner; 0 if there are none. */
static size_t take_pages(size_t count)
{
    for (auto run = free_pages.begin(); run != free_pages.end(); ++run) {
        if (run->second < count) continue;
        size_t first = run->first, rest = run->second - count;
        free_pages.erase(run);
        if (rest > 0) free_pages[first + count] = rest;
        return first;
    }
    if (arena_page - used_pages < count) return 0;
    if (closed) mprotect(region + used_pages * page_bytes, count * page_bytes, PROT_NONE);
    used_pages += count;
    return used_pages - count;
}

static uint32_t own_pages(size_t first, size_t size)
{
    if (free_numbers.empty()) {
        free_numbers.push_back(static_cast<uint32_t>(allocations.size()));
        allocations.emplace_back();
    }
    uint32_t number = free_numbers.back();
    free_numbers.pop_back();
    allocations[number] = {region + first * page_bytes, size, nullptr, false};
    std::fill_n(owners + first, (size + page_bytes - 1) / page_bytes, number);
    return number;
}

uint32_t allocate(size_t size)
{
    open_region();
    if (size > region_bytes) return 0;
    size_t count = (size + page_bytes - 1) / page_bytes;
    size_t first = take_pages(count + 1);
    if (first == 0) return 0;
    unsigned char *memory = region + first * page_bytes;
    if (closed) mprotect(memory, count * page_bytes, PROT_READ | PROT_WRITE);
    memset(memory, 0xff, size);
    if (closed) mprotect(memory, count * page_bytes, PROT_NONE);
    return own_pages(first, size);
}

void deallocate(uint32_t number)
{
    Allocation &allocation = allocations[number];
    size_t first = static_cast<size_t>(allocation.data - region) / page_bytes;
    size_t count = (allocation.size + page_bytes - 1) / page_bytes;
    std::fill(owners + first, owners + first + count, 0);
    madvise(allocation.data, count * page_bytes, MADV_DONTNEED);
    free_pages[first] = count + 1;
    auto run = free_pages.find(first), next = std::next(run);
    if (next != free_pages.end() && run->first + run->second == next->first) {
        run->second += next->second;
        free_pages.erase(next);
    }
    if (run != free_pages.begin() && std::prev(run)->first + std::prev(run)->second == run->first) {
        std::prev(run)->second += run->second;
        free_pages.erase(run);
    }
    allocation = {};
    free_numbers.push_back(number);
}

unsigned char *data(uint32_t allocation)
{
    return allocations[allocation].data;
}

static uint32_t owner(const void *address)
{
    size_t offset = static_cast<size_t>(static_cast<const unsigned char *>(address) - region);
    return region != nullptr && offset < region_bytes ? owners[offset / page_bytes] : 0;
}

uint32_t allocation_at(const void *address)
{
    uint32_t number = owner(address);
    return allocations[number].data == address ? number : 0;
}

bool is_device_range(const void *address, size_t size)
{
    const Allocation &found = allocations[owner(address)];
    if (found.data == nullptr || found.shared) return false;
    size_t offset = static_cast<size_t>(static_cast<const unsigned char *>(address) - found.data);
    return offset <= found.size && size <= found.size - offset;
}

bool is_host_memory(const void *address)
{
    uintptr_t value = reinterpret_cast<uintptr_t>(address);
    if (value >> 32 == 0 || value >> 47 != 0) return false;
    if (value - reinterpret_cast<uintptr_t>(region) < region_bytes) return false;
    return msync(reinterpret_cast<void *>(value / page_bytes * page_bytes), page_bytes, MS_ASYNC) == 0;
}

/* ---- shared memory */

static constexpr size_t arena_bytes = 256 << 10;

void open_arena(Block &block)
{
    if (free_arenas.empty()) {
        arena_page -= arena_bytes / page_bytes + 1;
        free_arenas.push_back(own_pages(arena_page, arena_bytes));
    }
    block.arena = free_arenas.back();
    free_arenas.pop_back();
    Allocation &arena = allocations[block.arena];
    arena.block = &block;
    arena.shared = true;
    arena.size = block.grid->launch.shared_bytes;
    block.shared = arena.data;
    block.underway.assign((arena.size + 3) / 4, false);
    memset(arena.data, 0xff, arena.size);
    size_t first = static_cast<size_t>(arena.data - region) / word_bytes;
    memset(shadow + first * slots_per_word, 0,
           (arena.size + word_bytes - 1) / word_bytes * slots_per_word * sizeof *shadow);
}

void close_arena(Block &block)
{
    allocations[block.arena].block = nullptr;
    free_arenas.push_back(block.arena);
}

unsigned char *shared_memory()
{
    return static_cast<Lane *>(current)->home->shared;
}

bool is_shared(const Lane &lane, const void *address)
{
    return owner(address) == lane.home->arena;
}

/* ---- clocks */

static void join(std::map<uint32_t, uint32_t> &times, const std::map<uint32_t, uint32_t> &others)
{
    for (auto &other : others) {
        uint32_t &time = times[other.first];
        time = std::max(time, other.second);
    }
}

void Clock::join(const Clock &other)
{
    for (auto &entry : other.blocks) simt::join(blocks[entry.first], entry.second);
    simt::join(lanes, other.lanes);
    simt::join(atomics, other.atomics);
}

bool Clock::covers(uint32_t block, uint32_t lane, uint32_t time, bool atomic) const
{
    auto warps = blocks.find(block);
    if (warps != blocks.end() && time / 16 < warps->second[lane / 32]) return true;
    auto exact = lanes.find(lane_key(block, lane));
    if (exact != lanes.end() && time <= exact->second) return true;
    if (!atomic) return false;
    exact = atomics.find(lane_key(block, lane));
    return exact != atomics.end() && time <= exact->second;
}

static void merge(std::unique_ptr<Clock> &into, const Clock &from)
{
    if (!into) into.reset(new Clock);
    into->join(from);
}

void tick(Warp &warp)
{
    for (unsigned i = 0; i < warp.count; i++) {
        Lane &lane = *warp.lanes[i];
        if (lane.acquired) warp.beyond.join(*lane.acquired);
        lane.acquired.reset();
        lane.releases = 0;
    }
    warp.view[warp.index]++;
}

void tick(Block &block)
{
    std::vector<uint32_t> view;
    Clock beyond;
    for (Warp &warp : block.warps) {
        tick(warp);
        join(view, warp.view);
        beyond.join(warp.beyond);
    }
    for (Warp &warp : block.warps) {
        warp.view = view;
        warp.beyond = beyond;
    }
}

void tick(Warp &warp, Barrier &barrier)
{
    tick(warp);
    join(barrier.view, warp.view);
    barrier.beyond.join(warp.beyond);
}

void catch_up(Warp &warp, const Barrier &barrier)
{
    join(warp.view, barrier.view);
    warp.beyond.join(barrier.beyond);
}

static uint32_t time_of(const Lane &lane)
{
    return lane.warp->view[lane.warp->index] * 16 + std::min(lane.releases, 15u);
}

Clock snapshot(Lane &lane)
{
    Clock clock = lane.warp->beyond;
    if (lane.acquired) clock.join(*lane.acquired);
    join(clock.blocks[lane.home->number & 0xffff], lane.warp->view);
    clock.lanes[lane_key(lane.home->number & 0xffff, lane.index)] = time_of(lane);
    lane.releases++;
    return clock;
}

void learn(Lane &lane, const Clock &clock)
{
    merge(lane.acquired, clock);
}

void fence()
{
    Inside lane;
    if (lane->noticed) merge(lane->acquired, *lane->noticed);
    lane->noticed.reset();
    lane->fenced.reset(new Clock(snapshot(*lane)));
}

/* A lane that reads a flag again and again gives way to all others first, one that changes it to some. */
static void begin_atomic(Lane &lane, const void *address, size_t size, Atomic::Kind kind, Order order, const void *code)
{
    if (kind == Atomic::load || draw(2) == 0) step_aside(lane, kind == Atomic::load);
    check(lane, address, size, true, access_atomic | (kind == Atomic::load ? access_read : access_write), code);
    auto &released = lane.home->grid->released;
    uintptr_t place = reinterpret_cast<uintptr_t>(address);
    auto found = released.find(place);
    if (kind != Atomic::store && found != released.end())
        merge(order == acquire || order == acquire_release ? lane.acquired : lane.noticed, found->second);
    if (kind == Atomic::load) return;
    if (kind == Atomic::store && found != released.end()) released.erase(found);
    Clock &clock = released[place];
    clock.atomics[lane_key(lane.home->number & 0xffff, lane.index)] = time_of(lane);
    if (order == release || order == acquire_release)
        clock.join(snapshot(lane));
    else if (lane.fenced)
        clock.join(*lane.fenced);
}

Atomic::Atomic(const volatile void *address, size_t size, Kind kind, Order order) : lane(current)
{
    current = nullptr;
    begin_atomic(*static_cast<Lane *>(lane), const_cast<const void *>(address), size, kind, order,
                 __builtin_return_address(0));
}

Atomic::~Atomic()
{
    current = lane;
}

void Atomic::changed()
{
    made_progress();
}

/* ---- races */

static uint32_t last_tag;

bool tags_are_used_up()
{
    return last_tag == tags - 1;
}

uint32_t next_tag()
{
    if (tags_are_used_up()) {
        madvise(shadow, region_bytes * shadow_bytes_per_byte, MADV_DONTNEED);
        last_tag = 0;
    }
    return ++last_tag;
}

/* Whether what 'slot' tells of another grid says nothing of this one: it had ended before. */
static bool is_past(const Lane &lane, const Slot &slot)
{
    for (const Grid::Other &other : lane.home->grid->others)
        if (other.tag == slot.tag) return other.until_wait && lane.waited;
    return true;
}

static bool happened_before(const Lane &lane, const Slot &slot)
{
    const Warp &warp = *lane.warp;
    if (slot.block == (lane.home->number & 0xffff) && slot.time / 16 < warp.view[slot.lane / 32]) return true;
    return warp.beyond.covers(slot.block, slot.lane, slot.time, slot.atomic) ||
           (lane.acquired && lane.acquired->covers(slot.block, slot.lane, slot.time, slot.atomic));
}

static void check_word(Lane &lane, Slot *slots, Slot now, const void *address, const void *code)
{
    for (int i = 0; i < slots_per_word; i++)
        if (bits<uint64_t>(slots[i]) == bits<uint64_t>(now)) return;
    Slot *place = nullptr;
    for (int i = 0; i < slots_per_word; i++) {
        Slot &slot = slots[i];
        if (slot.tag == 0) {
            if (place == nullptr || place->tag != 0) place = &slot;
            continue;
        }
        bool same_grid = slot.tag == now.tag, same_lane = same_grid && slot.block == now.block && slot.lane == now.lane;
        bool ordered = same_lane || (same_grid ? happened_before(lane, slot) : is_past(lane, slot));
        if (!ordered && (slot.bytes & now.bytes) && (slot.write || now.write) && !(slot.atomic && now.atomic))
            fault(lane, code,
                  "race: this lane %s %s memory at %p that lane %u of block %u%s %s, and nothing orders the two",
                  now.write ? "writes" : "reads", is_shared(lane, address) ? "shared" : "global", address,
                  static_cast<unsigned>(slot.lane), static_cast<unsigned>(slot.block),
                  same_grid ? "" : " of a kernel that may run at the same time", slot.write ? "wrote" : "read");
        /* What is ordered before this access and no wider tells nothing more, once this one is known. */
        if (ordered && (slot.bytes & ~now.bytes) == 0 && (now.write || !slot.write) &&
            (place == nullptr || place->tag != 0))
            place = &slot;
    }
    *(place != nullptr ? place : &slots[draw(slots_per_word)]) = now;
}

static void check_races(Lane &lane, const unsigned char *address, size_t size, int access, const void *code)
{
    Slot now = {};
    now.tag = lane.home->grid->tag;
    now.block = lane.home->number & 0xffff;
    now.lane = lane.index & 0x3ff;
    now.time = std::min(time_of(lane), last_time);
    now.write = (access & access_write) != 0;
    now.atomic = (access & access_atomic) != 0;
    size_t offset = static_cast<size_t>(address - region), end = offset + size;
    while (offset < end) {
        size_t word = offset / word_bytes, first = word * word_bytes, stop = std::min(end, first + word_bytes);
        now.bytes = ((1u << (stop - first)) - 1) & ~((1u << (offset - first)) - 1) & 0xff;
        check_word(lane, shadow + word * slots_per_word, now, region + offset, code);
        offset = stop;
    }
}

/* ---- what the hooks call */

/* Tables and constants of the object that the kernels are linked into may be read. */
static bool is_constant(const void *address)
{
    static struct Found {
        uintptr_t first, end;
    } found = [] {
        Found result = {0, 0};
        dl_iterate_phdr(
            [](dl_phdr_info *object, size_t, void *argument) {
                Found *range = static_cast<Found *>(argument);
                uintptr_t first = UINTPTR_MAX, end = 0, self = reinterpret_cast<uintptr_t>(&region);
                for (int i = 0; i < object->dlpi_phnum; i++) {
                    if (object->dlpi_phdr[i].p_type != PT_LOAD) continue;
                    uintptr_t start = object->dlpi_addr + object->dlpi_phdr[i].p_vaddr;
                    first = std::min(first, start);
                    end = std::max(end, start + object->dlpi_phdr[i].p_memsz);
                }
                if (self < first || self >= end) return 0;
                *range = {first, end};
                return 1;
            },
            &result);
        return result;
    }();
    uintptr_t value = reinterpret_cast<uintptr_t>(address);
    return value >= found.first && value < found.end;
}

static void check_outside(Lane &lane, const void *address, size_t size, int access, const void *code)
{
    uintptr_t value = reinterpret_cast<uintptr_t>(address);
    if (value - reinterpret_cast<uintptr_t>(static_cast<View *>(&lane)) < sizeof(View)) return;
    if (value - reinterpret_cast<uintptr_t>(&current) < sizeof current) return;
    if (!(access & access_write) && is_constant(address)) return;
    fault(lane, code, "%s %zu bytes at %p, which is not device memory", access & access_write ? "writes" : "reads",
          size, address);
}

static void fault_bounds(Lane &lane, const void *address, size_t size, int access, const void *code)
{
    const char *verb = access & access_write ? "writes" : "reads";
    const unsigned char *bytes = static_cast<const unsigned char *>(address);
    size_t page = static_cast<size_t>(bytes - region) / page_bytes;
    while (page > 0 && owners[page] == 0) page--;
    const Allocation &near = allocations[owners[page]];
    if (near.data == nullptr) fault(lane, code, "%s %zu bytes at %p, which was never allocated", verb, size, address);
    fault(lane, code, "%s %zu bytes at offset %td of %s of %zu bytes", verb, size, bytes - near.data,
          !near.shared ? "an allocation" : near.block == lane.home ? "shared memory" : "another block's shared memory",
          near.size);
}

void check(Lane &lane, const void *address, size_t size, bool aligned, int access, const void *code)
{
    const unsigned char *bytes = static_cast<const unsigned char *>(address);
    if (static_cast<size_t>(bytes - region) >= region_bytes) {
        if (reinterpret_cast<uintptr_t>(bytes) - reinterpret_cast<uintptr_t>(lane.fiber.stack) >= Fiber::stack_bytes)
            check_outside(lane, address, size, access, code);
        else if (!lane.sums.empty())
            check_registers(lane, address, size, (access & access_write) != 0, code);
        return;
    }
    const Allocation &allocation = allocations[owner(address)];
    size_t offset = static_cast<size_t>(bytes - allocation.data);
    if (allocation.data == nullptr || offset > allocation.size || size > allocation.size - offset ||
        (allocation.shared && allocation.block != lane.home))
        fault_bounds(lane, address, size, access, code);
    if (aligned && reinterpret_cast<uintptr_t>(address) % size != 0)
        fault(lane, code, "%s %zu bytes at offset %zu, which is not aligned to them",
              access & access_write ? "writes" : "reads", size, offset);
    if (allocation.shared)
        for (size_t word = offset / 4; word * 4 < offset + size; word++)
            if (lane.home->underway[word])
                fault(lane, code, "%s shared memory at offset %zu before the copy into it was waited for",
                      access & access_write ? "writes" : "reads", offset);
    if (settings.races) check_races(lane, bytes, size, access, code);
}

/* ---- asynchronous copies */

static void arrive(Lane &lane, const Copy &copy)
{
    size_t word = static_cast<size_t>(copy.shared - lane.home->shared) / 4;
    for (int i = 0; i < copy.bytes / 4; i++) lane.home->underway[word + static_cast<size_t>(i)] = false;
    check(lane, copy.shared, static_cast<size_t>(copy.bytes), true, access_write, copy.code);
    if (copy.valid) {
        check(lane, copy.global, static_cast<size_t>(copy.bytes), true, access_read, copy.code);
        memcpy(copy.shared, copy.global, static_cast<size_t>(copy.bytes));
    } else {
        memset(copy.shared, 0, static_cast<size_t>(copy.bytes));
    }
}

void cp_async(void *shared, const void *global, int bytes, bool valid)
{
    Inside lane;
    const void *code = __builtin_return_address(0);
    Copy copy = {static_cast<unsigned char *>(shared), static_cast<const unsigned char *>(global), bytes, valid, code};
    if (!is_shared(*lane, shared)) fault(*lane, code, "cp.async to %p, which is not shared memory", shared);
    check(*lane, shared, static_cast<size_t>(bytes), true, access_write, code);
    if (valid) {
        if (is_shared(*lane, global)) fault(*lane, code, "cp.async from shared memory");
        check(*lane, global, static_cast<size_t>(bytes), true, access_read, code);
    }
    if (settings.architecture < 800) {
        arrive(*lane, copy);
        return;
    }
    size_t word = static_cast<size_t>(copy.shared - lane->home->shared) / 4;
    for (int i = 0; i < bytes / 4; i++) lane->home->underway[word + static_cast<size_t>(i)] = true;
    memset(shared, 0xff, static_cast<size_t>(bytes));
    lane->copies.push_back(copy);
}

void cp_async_commit()
{
    Inside lane;
    lane->groups.push_back(std::move(lane->copies));
    lane->copies.clear();
}

void cp_async_wait(int groups)
{
    Inside lane;
    while (lane->groups.size() > static_cast<size_t>(groups)) {
        for (const Copy &copy : lane->groups.front()) arrive(*lane, copy);
        lane->groups.pop_front();
    }
}

/* ---- names for addresses of code */

std::string describe(const void *code, bool function)
{
    Dl_info object;
    if (code == nullptr || !dladdr(code, &object) || object.dli_fname == nullptr) return "?";
    size_t offset = static_cast<size_t>(static_cast<const char *>(code) - static_cast<const char *>(object.dli_fbase));
    if (!function) offset--; /* from where a call returns to the call */
    char command[4200], line[512];
    snprintf(command, sizeof command, "addr2line -%se '%s' 0x%zx 2>/dev/null", function ? "Cf" : "si", object.dli_fname,
             offset);
    std::string result;
    FILE *pipe = popen(command, "r");
    while (pipe != nullptr && fgets(line, sizeof line, pipe) != nullptr) {
        line[strcspn(line, "\n(")] = 0;
        if (line[0] == '?' || (function && !result.empty())) break;
        result += (result.empty() ? "" : " < ") + std::string(line);
    }
    if (pipe != nullptr) pclose(pipe);
    if (!result.empty()) return result;
    snprintf(line, sizeof line, "%.400s+0x%zx", object.dli_fname, offset);
    return line;
}

/* ---- hooks of -fsanitize=thread */

static inline void hook(const volatile void *address, size_t size, bool aligned, int access, const void *code)
{
    if (current == nullptr) return;
    Inside lane;
    check(*lane, const_cast<const void *>(address), size, aligned, access, code);
}

/* A volatile access is a relaxed atomic one, and what a lane that waits for another makes again and again. */
static inline void hook_volatile(const volatile void *address, size_t size, bool write, const void *code)
{
    if (current == nullptr) return;
    Inside lane;
    begin_atomic(*lane, const_cast<const void *>(address), size, write ? Atomic::store : Atomic::load, relaxed, code);
    if (write) made_progress();
}

} // namespace simt

extern "C" {

#define HOOK(name, size, function, ...)                                                                               \
    void name##size(void *address) { simt::function(address, size, __VA_ARGS__, __builtin_return_address(0)); }
#define HOOKS(size)                                                                                                   \
    HOOK(__tsan_read, size, hook, true, simt::access_read)                                                            \
    HOOK(__tsan_write, size, hook, true, simt::access_write)                                                          \
    HOOK(__tsan_unaligned_read, size, hook, false, simt::access_read)                                                 \
    HOOK(__tsan_unaligned_write, size, hook, false, simt::access_write)                                               \
    HOOK(__tsan_volatile_read, size, hook_volatile, false)                                                            \
    HOOK(__tsan_volatile_write, size, hook_volatile, true)                                                            \
    HOOK(__tsan_unaligned_volatile_read, size, hook_volatile, false)                                                  \
    HOOK(__tsan_unaligned_volatile_write, size, hook_volatile, true)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void *a, long size)
{
    simt::hook(a, static_cast<size_t>(size), false, simt::access_read, __builtin_return_address(0));
}

void __tsan_write_range(void *a, long size)
{
    simt::hook(a, static_cast<size_t>(size), false, simt::access_write, __builtin_return_address(0));
}

/* Of -fsanitize=alignment, which sees the type of an access that the compiler splits into smaller ones. */
struct Mismatch {
    const char *file;
    unsigned line, column;
    const void *type;
    unsigned char log_alignment, kind;
};

void __ubsan_handle_type_mismatch_v1(Mismatch *mismatch, uintptr_t address)
{
    if (simt::current == nullptr) return;
    simt::Inside lane;
    simt::fault(*lane, nullptr, "accesses %p, which is not aligned to %u bytes, at %s:%u",
                reinterpret_cast<void *>(address), 1u << mismatch->log_alignment, simt::file_name(mismatch->file),
                mismatch->line);
}

void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}

} // extern "C"
