/* The scheduler: which lane runs next, barriers, and instructions that a warp executes together.
 *
 * Blocks become resident in random order, as many as the pretended device has room for.  Among warps the one with
 * the highest priority runs as far as it can; priorities are random and change at random moments, so some warps run
 * far ahead and others lag.  Within a warp, lanes run in a random order up to the next point where they must meet. */
#include "executor.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

namespace simt {

__thread View *current;

static std::vector<Grid *> grids;                    /* started, not finished */
static std::vector<std::unique_ptr<Block>> resident;
static std::vector<std::unique_ptr<Lane>> all_lanes; /* ever made */
static std::vector<Lane *> idle_lanes;
static Lane *running;      /* whose fibre runs */
static bool failed;
static bool interrupted;   /* another kernel may begin */
static uint64_t idle_runs; /* lanes run since something last changed */
static uint64_t random_state = 1;
static uint64_t last_priority; /* below all that were given: for lanes that step aside */

static constexpr uint64_t idle_limit = 1 << 19;
static constexpr uint64_t lowest_priority = 1ull << 40;

void made_progress()
{
    idle_runs = 0;
}

uint64_t draw(uint64_t limit)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % limit;
}

static void seed_draws(uint64_t seed)
{
    random_state = (seed + 1) * 0x9e3779b97f4a7c15u | 1;
    for (int i = 0; i < 8; i++) draw(2);
}

static uint3 unravel(unsigned index, dim3 size)
{
    return {index % size.x, index / size.x % size.y, index / size.x / size.y};
}

/* ---- faults */

static std::string format_text(const char *format, va_list arguments)
{
    char text[1024];
    vsnprintf(text, sizeof text, format, arguments);
    return text;
}

static std::string text(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    std::string result = format_text(format, arguments);
    va_end(arguments);
    return result;
}

static std::string lane_text(const Lane &lane)
{
    return text("block (%u,%u,%u) thread (%u,%u,%u)", lane.block.x, lane.block.y, lane.block.z, lane.thread.x,
                lane.thread.y, lane.thread.z);
}

void fault(const Lane &lane, const void *code, const char *format, ...)
{
    {
        va_list arguments;
        va_start(arguments, format);
        std::string what = format_text(format, arguments);
        va_end(arguments);
        const Launch &launch = lane.home->grid->launch;
        report(describe(lane.home->grid->kernel, true) +
               text("<<<(%u,%u,%u), (%u,%u,%u), %zu>>> ", launch.grid.x, launch.grid.y, launch.grid.z, launch.block.x,
                    launch.block.y, launch.block.z, launch.shared_bytes) +
               lane_text(lane) + ": " + what + (code != nullptr ? " at " + describe(code, false) : ""));
        failed = true;
    }
    running->fiber.suspend();
    __builtin_unreachable();
}

/* ---- lanes that come, wait and go */

static void make_ready(Lane &lane)
{
    Warp &warp = *lane.warp;
    warp.ready |= 1u << warp.position[lane.index % 32];
    warp.home->ready |= 1u << warp.index;
    lane.waits_for = nullptr;
}

static void wait(Lane &lane, const char *reason, Place place = {nullptr, 0})
{
    Warp &warp = *lane.warp;
    warp.ready &= ~(1u << warp.position[lane.index % 32]);
    if (warp.ready == 0) warp.home->ready &= ~(1u << warp.index);
    lane.waits_for = reason;
    lane.waits_at = place;
    lane.fiber.suspend();
}

void sleep(Lane &lane, const char *reason)
{
    wait(lane, reason);
}

void wake(Lane &lane)
{
    make_ready(lane);
    idle_runs = 0;
}

static void shuffle_order(Warp &warp)
{
    unsigned ready_lanes = 0;
    for (unsigned i = 0; i < warp.count; i++)
        if (warp.ready >> i & 1) ready_lanes |= 1u << warp.order[i];
    for (unsigned i = warp.count; i > 1; i--) std::swap(warp.order[i - 1], warp.order[draw(i)]);
    warp.ready = 0;
    for (unsigned i = 0; i < warp.count; i++) {
        warp.position[warp.order[i]] = static_cast<uint8_t>(i);
        if (ready_lanes >> warp.order[i] & 1) warp.ready |= 1u << i;
    }
    warp.priority = lowest_priority + draw(1ull << 40);
}

void step_aside(Lane &lane, bool behind_all)
{
    lane.warp->cursor = lane.warp->position[lane.index % 32] + 1u;
    lane.warp->priority = behind_all ? --last_priority : lowest_priority + draw(1ull << 40);
    lane.fiber.suspend();
}

void yield()
{
    Inside lane;
    step_aside(*lane, true);
}

void trap()
{
    Inside lane;
    fault(*lane, __builtin_return_address(0), "the kernel ended itself (__trap)");
}

static unsigned live_lanes(const Warp &warp)
{
    unsigned live = 0;
    for (unsigned i = 0; i < warp.count; i++)
        if (!warp.lanes[i]->ended) live |= 1u << i;
    return live;
}

static void complete(Warp &warp, size_t index)
{
    Meeting &meeting = warp.meetings[index];
    meeting.work(meeting, warp);
    for (unsigned i = 0; i < warp.count; i++)
        if (meeting.arrived >> i & 1) make_ready(*warp.lanes[i]);
    warp.meetings.erase(warp.meetings.begin() + static_cast<ptrdiff_t>(index));
    idle_runs = 0;
}

static void meet_lanes(Lane &lane, unsigned mask, const char *name, void *operand, MeetingWork work, bool all)
{
    Warp &warp = *lane.warp;
    unsigned self = 1u << lane.index % 32;
    if (!(mask & self)) fault(lane, nullptr, "%s with mask %08x, which leaves out the lane itself", name, mask);
    size_t index = 0;
    for (; index < warp.meetings.size() && warp.meetings[index].mask != mask; index++) {
        const Meeting &other = warp.meetings[index];
        if (other.arrived & mask)
            fault(lane, nullptr, "%s with mask %08x, while lanes %08x of them wait in %s with mask %08x", name, mask,
                  other.arrived & mask, other.name, other.mask);
    }
    if (index == warp.meetings.size()) warp.meetings.push_back({name, mask, 0, {}, work, all});
    Meeting &meeting = warp.meetings[index];
    if (meeting.name != name)
        fault(lane, nullptr, "%s, while lanes %08x of the same mask wait in %s", name, meeting.arrived, meeting.name);
    meeting.operands[lane.index % 32] = operand;
    meeting.arrived |= self;
    if (meeting.arrived == (mask & live_lanes(warp)))
        complete(warp, index);
    else
        wait(lane, name);
}

void meet(Lane &lane, unsigned mask, const char *name, void *operand, MeetingWork work)
{
    meet_lanes(lane, mask, name, operand, work, false);
}

void meet_all(Lane &lane, const char *name, void *operand, MeetingWork work)
{
    unsigned live = live_lanes(*lane.warp);
    if (live != 0xffffffffu) fault(lane, nullptr, "%s takes all 32 lanes of a warp; this one has %08x", name, live);
    meet_lanes(lane, 0xffffffffu, name, operand, work, true);
}

static void complete_sync_threads(Block &block)
{
    Barrier &barrier = block.barriers[0];
    tick(block);
    block.predicates = barrier.predicates;
    for (Lane *lane : barrier.waiting) make_ready(*lane);
    barrier.waiting.clear();
    barrier.arrived = barrier.predicates = 0;
    idle_runs = 0;
}

static void end(Lane &lane)
{
    Block &block = *lane.home;
    Warp &warp = *lane.warp;
    if (!lane.sums.empty()) fault(lane, nullptr, "ends with a wgmma under way");
    lane.ended = true;
    idle_runs = 0;
    /* An instruction waits for the lanes of its mask that have not ended; but one of the whole warp has no meaning
     * without. */
    for (size_t i = warp.meetings.size(); i-- > 0;) {
        const Meeting &meeting = warp.meetings[i];
        if (meeting.all && (meeting.mask >> lane.index % 32 & 1))
            fault(lane, nullptr, "ends, while lanes %08x of its warp wait for it in %s", meeting.arrived, meeting.name);
        if (meeting.arrived == (meeting.mask & live_lanes(warp))) complete(warp, i);
    }
    if (--block.live > 0 && block.barriers[0].arrived == static_cast<int>(block.live)) complete_sync_threads(block);
    wait(lane, "its end");
}

static __thread Lane *beginning;

void begin_lane()
{
    current = beginning;
}

void end_lane()
{
    current = nullptr;
}

static void lane_main(void *argument)
{
    Lane *lane = static_cast<Lane *>(argument);
    beginning = lane;
    lane->home->grid->body();
    end(*lane);
}

/* ---- what lanes do together */

int sync_threads(bool predicate, Place place)
{
    Inside lane;
    Block &block = *lane->home;
    Barrier &barrier = block.barriers[0];
    if (barrier.arrived == 0) barrier.place = place;
    if (barrier.place.line != place.line || strcmp(barrier.place.file, place.file) != 0)
        fault(*lane, nullptr, "comes to the __syncthreads at %s:%d, while %d threads wait at the one at %s:%d",
              file_name(place.file), place.line, barrier.arrived, file_name(barrier.place.file), barrier.place.line);
    barrier.arrived++;
    barrier.predicates += predicate;
    if (barrier.arrived == static_cast<int>(block.live)) {
        complete_sync_threads(block);
    } else {
        barrier.waiting.push_back(&*lane);
        wait(*lane, "__syncthreads", place);
    }
    return block.predicates;
}

struct BarrierCall {
    int id, threads;
    bool waits;
};

static void come_to_barrier(Meeting &meeting, Warp &warp)
{
    BarrierCall first = {};
    for (unsigned i = 0; i < 32; i++) {
        BarrierCall *call = static_cast<BarrierCall *>(meeting.operands[i]);
        if (first.threads == 0) first = *call;
        if (call->id != first.id || call->threads != first.threads || call->waits != first.waits)
            fault(*warp.lanes[i], nullptr, "comes to barrier %d of %d threads with lanes that come to barrier %d of %d",
                  call->id, call->threads, first.id, first.threads);
    }
    Lane &lane = *warp.lanes[0];
    Barrier &barrier = warp.home->barriers[first.id];
    if (barrier.arrived == 0) barrier.expected = first.threads;
    if (barrier.expected != first.threads || barrier.arrived + 32 > barrier.expected)
        fault(lane, nullptr, "comes to barrier %d of %d threads, where %d of %d are", first.id, first.threads,
              barrier.arrived, barrier.expected);
    tick(warp, barrier);
    barrier.arrived += 32;
    if (first.waits) barrier.waiting.insert(barrier.waiting.end(), warp.lanes, warp.lanes + 32);
    if (barrier.arrived < barrier.expected) return;
    for (Lane *waiting : barrier.waiting) {
        if (waiting->index % 32 == 0) catch_up(*waiting->warp, barrier);
        waiting->passed = true;
        make_ready(*waiting);
    }
    barrier.arrived = 0;
    barrier.waiting.clear();
    barrier.view.clear();
    barrier.beyond = Clock();
}

void barrier(int id, int threads, bool waits)
{
    Inside lane;
    if (id < 1 || id > 15 || threads < 32 || threads % 32 != 0)
        fault(*lane, nullptr, "barrier %d of %d threads: 1..15, and a multiple of 32", id, threads);
    BarrierCall call = {id, threads, waits};
    lane->passed = false;
    meet_all(*lane, waits ? "bar.sync" : "bar.arrive", &call, come_to_barrier);
    /* Another warp may have completed the barrier before this lane left the meeting of its own. */
    if (waits && !lane->passed) wait(*lane, "bar.sync");
}

void grid_wait()
{
    Inside lane;
    Grid &grid = *lane->home->grid;
    if (grid.predecessor != nullptr) {
        grid.waiting.push_back(&*lane);
        wait(*lane, "the kernel before");
    }
    lane->waited = true;
}

void grid_launch_dependents()
{
    Inside lane;
    Block &block = *lane->home;
    if (!block.triggered && --block.grid->untriggered == 0) interrupted = true;
    block.triggered = true;
    if (interrupted) step_aside(*lane, true);
}

/* ---- blocks and grids */

static Lane *new_lane()
{
    if (idle_lanes.empty()) {
        all_lanes.emplace_back(new Lane);
        idle_lanes.push_back(all_lanes.back().get());
    }
    Lane *lane = idle_lanes.back();
    idle_lanes.pop_back();
    return lane;
}

static void start_block(Grid &grid)
{
    const Launch &launch = grid.launch;
    unsigned threads = launch.block.x * launch.block.y * launch.block.z;
    resident.emplace_back(new Block());
    Block &block = *resident.back();
    block.grid = &grid;
    block.number = grid.pending.back();
    block.live = threads;
    block.warps.resize((threads + 31) / 32);
    block.lanes.resize(threads);
    for (unsigned i = 0; i < threads; i++) {
        Lane *lane = block.lanes[i] = new_lane();
        lane->thread = unravel(i, launch.block);
        lane->block = unravel(block.number, launch.grid);
        lane->block_size = launch.block;
        lane->grid_size = launch.grid;
        lane->home = &block;
        lane->warp = &block.warps[i / 32];
        lane->index = i;
        lane->ended = lane->waited = false;
        lane->releases = 0;
        lane->waits_for = nullptr;
        lane->copies.clear();
        lane->groups.clear();
        lane->products.clear();
        lane->product_groups.clear();
        lane->sums.clear();
        lane->products_fenced = false;
        lane->acquired.reset();
        lane->noticed.reset();
        lane->fenced.reset();
        lane->fiber.prepare(lane_main, lane);
    }
    for (unsigned i = 0; i < block.warps.size(); i++) {
        Warp &warp = block.warps[i];
        warp.home = &block;
        warp.index = i;
        warp.count = std::min(32u, threads - 32 * i);
        warp.ready = warp.count == 32 ? ~0u : (1u << warp.count) - 1;
        for (unsigned j = 0; j < warp.count; j++) {
            warp.lanes[j] = block.lanes[32 * i + j];
            warp.order[j] = static_cast<uint8_t>(j);
        }
        shuffle_order(warp);
        warp.view.assign(block.warps.size(), 0);
        warp.view[i] = 1;
        block.ready |= 1u << i;
    }
    open_arena(block);
    grid.pending.pop_back();
    grid.running++;
}

static void end_block(size_t index)
{
    Block &block = *resident[index];
    if (!block.triggered) block.grid->untriggered--;
    block.grid->running--;
    idle_lanes.insert(idle_lanes.end(), block.lanes.begin(), block.lanes.end());
    close_arena(block);
    std::swap(resident[index], resident.back());
    resident.pop_back();
}

bool may_start()
{
    return grids.empty() || !tags_are_used_up();
}

bool may_overlap(const Grid *grid)
{
    return grid->untriggered == 0;
}

bool is_active(const Grid *grid)
{
    return std::find(grids.begin(), grids.end(), grid) != grids.end();
}

void start(Grid *grid, Grid *predecessor)
{
    static uint64_t launches;
    seed_draws(settings.seed * 1000003 + launches++);
    const Launch &launch = grid->launch;
    grid->tag = next_tag();
    grid->untriggered = launch.grid.x * launch.grid.y * launch.grid.z;
    grid->pending.resize(grid->untriggered);
    for (uint32_t i = 0; i < grid->untriggered; i++) grid->pending[i] = i;
    for (uint32_t i = grid->untriggered; i > 1; i--) std::swap(grid->pending[i - 1], grid->pending[draw(i)]);
    int per_multiprocessor = 1;
    cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, grid->kernel,
                                                  static_cast<int>(launch.block.x * launch.block.y * launch.block.z),
                                                  launch.shared_bytes);
    grid->running = 0;
    grid->limit = static_cast<uint32_t>(settings.multiprocessors * std::max(1, per_multiprocessor));
    grid->finished = false;
    grid->predecessor = predecessor != nullptr && !predecessor->finished ? predecessor : nullptr;
    grid->others.clear();
    if (predecessor != nullptr) grid->others.push_back({predecessor->tag, true});
    grid->released.clear();
    for (Grid *other : grids) {
        grid->others.push_back({other->tag, other->launch.stream == launch.stream});
        other->others.push_back({grid->tag, false});
    }
    if (grids.empty()) last_priority = lowest_priority;
    grids.push_back(grid);
    idle_runs = 0;
}

static void finish(Grid &grid)
{
    grid.finished = true;
    grids.erase(std::find(grids.begin(), grids.end(), &grid));
    for (Grid *other : grids) {
        if (other->predecessor != &grid) continue;
        other->predecessor = nullptr;
        for (Lane *lane : other->waiting) make_ready(*lane);
        other->waiting.clear();
    }
    idle_runs = 0;
}

void abandon()
{
    for (auto &block : resident) {
        idle_lanes.insert(idle_lanes.end(), block->lanes.begin(), block->lanes.end());
        close_arena(*block);
    }
    resident.clear();
    for (Grid *grid : grids) grid->finished = true;
    grids.clear();
    failed = false;
}

/* Who waits for what, when nobody can go on. */
static void fault_deadlock()
{
    Lane *first = nullptr;
    std::map<std::string, unsigned> reasons;
    for (auto &block : resident) {
        for (Lane *lane : block->lanes) {
            if (lane->ended) continue;
            if (first == nullptr) first = lane;
            std::string reason = lane->waits_for != nullptr ? lane->waits_for : "memory that nobody writes";
            if (lane->waits_for != nullptr && lane->waits_at.file != nullptr)
                reason += text(" (%s:%d)", file_name(lane->waits_at.file), lane->waits_at.line);
            reasons[reason]++;
        }
    }
    std::string all;
    for (auto &reason : reasons)
        all += text("%s%u threads wait for ", all.empty() ? "" : ", ", reason.second) + reason.first;
    running = first;
    report(describe(first->home->grid->kernel, true) + " " + lane_text(*first) + ": nobody can go on: " + all);
    failed = true;
}

static void run_warps(Block &block)
{
    constexpr int most_runs = 4096; /* long turns, because the next block needs other lines of the caches */
    interrupted = false;
    for (int runs = 0; runs < most_runs && block.ready != 0 && !failed && !interrupted; runs++) {
        Warp *warp = nullptr;
        for (uint32_t rest = block.ready; rest != 0; rest &= rest - 1) {
            Warp &candidate = block.warps[static_cast<unsigned>(__builtin_ctz(rest))];
            if (warp == nullptr || candidate.priority > warp->priority) warp = &candidate;
        }
        if (draw(64) == 0) shuffle_order(*warp);
        unsigned behind = warp->cursor < 32 ? warp->ready >> warp->cursor << warp->cursor : 0;
        unsigned position = static_cast<unsigned>(__builtin_ctz(behind != 0 ? behind : warp->ready));
        warp->cursor = position;
        idle_runs++;
        running = warp->lanes[warp->order[position]];
        if (const uint32_t rest = warp->ready >> position >> 1)
            warp->lanes[warp->order[position + 1 + static_cast<unsigned>(__builtin_ctz(rest))]]->fiber.prefetch();
        running->fiber.resume();
    }
}

bool step()
{
    for (Grid *grid : grids)
        if (!grid->pending.empty() && grid->running < grid->limit) start_block(*grid);
    size_t count = resident.size(), first = count > 0 ? draw(count) : 0, chosen = count;
    for (size_t i = 0; i < count && chosen == count; i++)
        if (resident[(first + i) % count]->ready != 0) chosen = (first + i) % count;
    if (chosen < count) run_warps(*resident[chosen]);
    if (!failed && count > 0 && (chosen == count || idle_runs > idle_limit)) fault_deadlock();
    if (failed) {
        abandon();
        return false;
    }
    if (chosen < count && resident[chosen]->live == 0) end_block(chosen);
    for (size_t i = 0; i < grids.size();) {
        Grid &grid = *grids[i];
        if (grid.running == 0 && grid.pending.empty() && grid.predecessor == nullptr)
            finish(grid), i = 0;
        else
            i++;
    }
    return !grids.empty();
}

} // namespace simt
