/* The executor's own view of grids, blocks, warps and lanes, shared by its files. */
#ifndef AWQ_SIMT_EXECUTOR_H
#define AWQ_SIMT_EXECUTOR_H

#include "fiber.h"
#include "simt.h"

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace simt {

struct Block;
struct Grid;
struct Warp;

/* ---- time, for the race detector
 *
 * A warp's clock ticks whenever all its lanes synchronise.  A lane's time is that clock, times 16, plus how often the
 * lane has released something since the tick (up to 15).  A Clock says which accesses happened before the moment that
 * it describes. */

struct Clock {
    std::map<uint32_t, std::vector<uint32_t>> blocks; /* by block, then warp: all accesses at earlier ticks */
    std::map<uint32_t, uint32_t> lanes;               /* by lane_key(): its accesses up to and at this time */
    std::map<uint32_t, uint32_t> atomics;             /* the same of its atomic accesses alone */

    void join(const Clock &other);
    bool covers(uint32_t block, uint32_t lane, uint32_t time, bool atomic) const;
};

static inline uint32_t lane_key(uint32_t block, uint32_t lane)
{
    return block << 10 | lane;
}

static inline void join(std::vector<uint32_t> &view, const std::vector<uint32_t> &other)
{
    if (view.size() < other.size()) view.resize(other.size());
    for (size_t i = 0; i < other.size(); i++)
        if (view[i] < other[i]) view[i] = other[i];
}

/* ---- lanes, warps, blocks, grids */

struct Copy {
    unsigned char *shared;
    const unsigned char *global;
    int bytes;
    bool valid;
    const void *code;
};

/* A wgmma under way, as one lane sees it, and the sums that some of them add to: what 'd' will hold. */
struct Product {
    float *d;
    const uint32_t *a;
    uint64_t b;
    int n;
    Element element;
    const void *code;
};

struct Sums {
    float *d;
    std::vector<float> values;
    int products;
};

struct Lane : View {
    Block *home;
    Warp *warp;
    unsigned index; /* in the block */
    bool ended;
    bool waited;            /* has called grid_wait() */
    bool passed;            /* the barrier it last came to is complete */
    uint32_t releases;      /* since the warp's last tick */
    const char *waits_for;  /* while it waits */
    Place waits_at;
    std::vector<Copy> copies; /* not yet committed */
    std::deque<std::vector<Copy>> groups;
    std::vector<Product> products; /* not yet committed */
    std::deque<std::vector<Product>> product_groups;
    std::vector<Sums> sums;
    bool products_fenced;
    std::unique_ptr<Clock> acquired; /* what happened before, beyond what the warp knows */
    std::unique_ptr<Clock> noticed;  /* what relaxed loads saw, acquired by the next fence */
    std::unique_ptr<Clock> fenced;   /* what the last fence lets later relaxed stores release */
    Fiber fiber;
};

/* Lanes that execute one warp instruction together: the last to come does the work of all. */
struct Meeting;
typedef void (*MeetingWork)(Meeting &, Warp &);
struct Meeting {
    const char *name;
    unsigned mask, arrived;
    void *operands[32]; /* of the lanes that arrived */
    MeetingWork work;
    bool all; /* none of the warp may have ended */
};

struct Warp {
    Block *home;
    unsigned index, count;
    Lane *lanes[32];
    unsigned ready;    /* a bit per position in 'order' */
    unsigned cursor;   /* the position to try next */
    uint8_t order[32], position[32]; /* a permutation of the lanes, and its inverse */
    uint64_t priority;
    std::vector<Meeting> meetings;
    size_t products; /* done */
    std::vector<uint32_t> view; /* its entry of Clock::blocks for its own block; at its own place its clock */
    Clock beyond;               /* what happened before in other blocks */
};

struct Barrier {
    int expected, arrived, predicates;
    Place place;
    std::vector<Lane *> waiting;
    std::vector<uint32_t> view; /* joined over who came */
    Clock beyond;
};

/* A barrier in shared memory. */
struct BulkCopy {
    unsigned char *shared;
    const unsigned char *global;
    uint32_t bytes;
};

struct MemoryBarrier {
    uint32_t arrivals, pending; /* of a phase, and still to come */
    int64_t expected;           /* bytes of copies */
    uint64_t phase;
    bool fenced;
    std::vector<BulkCopy> copies;
    std::vector<Lane *> waiting;
    Clock clock, ended; /* of what came before arrivals, and of that what ended phases cover */
};

struct Block {
    Grid *grid;
    uint32_t number;
    bool triggered; /* let the next kernel begin */
    std::vector<Lane *> lanes;
    std::vector<Warp> warps;
    unsigned live;
    uint32_t ready; /* a bit per warp */
    Barrier barriers[16];
    int predicates;             /* of the last __syncthreads */
    uint32_t arena;             /* the allocation that is its shared memory */
    unsigned char *shared;
    std::vector<bool> underway; /* per 4 bytes of it: a copy has not arrived */
    std::map<const void *, MemoryBarrier> memory_barriers;
    std::map<uint32_t, std::vector<uint64_t>> warpgroups; /* the descriptors of their products, in order */
};

struct Grid {
    Launch launch;
    const void *kernel;
    std::function<void()> body;
    /* Set by start(). */
    uint32_t tag;                  /* not 0: in the shadow of memory */
    std::vector<uint32_t> pending; /* blocks to start */
    uint32_t running, limit;       /* resident blocks, and how many may be */
    uint32_t untriggered;          /* blocks that have not let the next kernel begin */
    bool finished;
    Grid *predecessor; /* that it overlaps with, until that has finished */
    std::vector<Lane *> waiting; /* in grid_wait() */
    struct Other {
        uint32_t tag;
        bool until_wait;
    };
    std::vector<Other> others; /* grids that run at the same time; until_wait: until grid_wait() returns */
    std::unordered_map<uintptr_t, Clock> released; /* by the address of a flag or counter */
};

/* ---- executor.cc */

/* Code of the executor that a lane calls runs without a current lane, so that hooks in instantiations of the
 * standard library that it shares with kernels stay silent. */
class Inside {
  public:
    Inside() : lane(static_cast<Lane *>(current)) { current = nullptr; }
    ~Inside() { current = lane; }
    Inside(const Inside &) = delete;
    Inside &operator=(const Inside &) = delete;
    Lane *operator->() const { return lane; }
    Lane &operator*() const { return *lane; }

  private:
    Lane *lane;
};

/* 'grid' stays the caller's, and must live until it has finished.  'predecessor' is the one that it overlaps with,
 * or null. */
void start(Grid *grid, Grid *predecessor);
bool step();                               /* run lanes for a while; false when no grid is left */
bool may_start();                          /* whether a kernel may begin beside those that run */
bool may_overlap(const Grid *grid);        /* whether the next kernel of the stream may begin */
void abandon();                            /* all grids, after a fault */
bool is_active(const Grid *grid);
uint64_t draw(uint64_t limit);             /* a random number below 'limit' */

/* End all launches, with a text about a lane. */
[[noreturn]] void fault(const Lane &lane, const void *code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Other warps, and other lanes of its warp, run before 'lane' goes on: all that can, or some chosen at random. */
void step_aside(Lane &lane, bool behind_all);

/* Something changed that a lane might wait for. */
void made_progress();

/* Wait until another lane wakes this one. */
void sleep(Lane &lane, const char *reason);
void wake(Lane &lane);

/* Wait until every lane of 'mask' that has not ended has come with its operand; or all 32 lanes of the warp. */
void meet(Lane &lane, unsigned mask, const char *name, void *operand, MeetingWork work);
void meet_all(Lane &lane, const char *name, void *operand, MeetingWork work);

static inline const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != nullptr ? slash + 1 : path;
}

/* ---- memory.cc */

enum { access_read = 0, access_write = 1, access_atomic = 2 };

/* Check an access of a lane to any address; 'aligned' to its size. */
void check(Lane &lane, const void *address, size_t size, bool aligned, int access, const void *code);
bool is_shared(const Lane &lane, const void *address);

Clock snapshot(Lane &lane); /* all that happened before, for the lane and by it; what it does later is not part of it */
void learn(Lane &lane, const Clock &clock);
void tick(Warp &warp);                        /* its lanes have synchronised */
void tick(Block &block);                      /* all its warps have */
void tick(Warp &warp, Barrier &barrier);      /* the warp came to a barrier of some warps */
void catch_up(Warp &warp, const Barrier &barrier); /* and left it */

/* Device memory; allocation 0 is none. */
uint32_t allocate(size_t size);
void deallocate(uint32_t allocation);
unsigned char *data(uint32_t allocation);
uint32_t allocation_at(const void *address);            /* the one that begins there */
bool is_device_range(const void *address, size_t size); /* within one allocation that is not shared memory */
bool is_host_memory(const void *address);
void open_arena(Block &block);  /* the shared memory of a block that starts */
void close_arena(Block &block);
bool tags_are_used_up(); /* what is remembered of earlier grids must be forgotten before the next one */
uint32_t next_tag();
void protect(bool protect); /* whether the host may touch device memory */
std::string describe(const void *code, bool function); /* "file:line", or the name of the function */

/* ---- warp.cc */

float decode(uint32_t bits, Element element);

/* ---- async.cc */

/* Check an access to the lane's stack, where its registers are. */
void check_registers(const Lane &lane, const void *address, size_t size, bool write, const void *code);

/* ---- runtime.cc */

extern Device settings;
void report(const std::string &text); /* a fault */

} // namespace simt

#endif /* AWQ_SIMT_EXECUTOR_H */
