/* What runs in the background on compute capability 9.0: bulk copies, the barriers in shared memory that they count
 * towards, and products of warpgroups.
 *
 * All of it happens as late as it may.  A bulk copy arrives when somebody waits for the phase that it belongs to; a
 * product reads its operands and writes its sums when its group is waited for.  Until then the target of a copy and the
 * sums of a product hold NaNs, and touching them ends the launch. */
#include "executor.h"

#include <algorithm>

namespace simt {

/* ---- barriers: "Parallel Synchronization and Communication Instructions: mbarrier" */

static void require_hopper(const Lane &lane, const void *code, const char *what)
{
    if (settings.architecture < 900) fault(lane, code, "%s needs compute capability 9.0", what);
}

uint32_t shared_address(const void *shared)
{
    Inside lane;
    if (!is_shared(*lane, shared))
        fault(*lane, __builtin_return_address(0), "the address in shared memory of %p, which is not in it", shared);
    return static_cast<uint32_t>(static_cast<const unsigned char *>(shared) - lane->home->shared);
}

static void require_barrier(const Lane &lane, const uint64_t *shared, const void *code)
{
    require_hopper(lane, code, "mbarrier");
    if (!is_shared(lane, shared))
        fault(lane, code, "an mbarrier at %p, which is not shared memory", static_cast<const void *>(shared));
}

static MemoryBarrier &barrier_at(Lane &lane, uint64_t *shared, const void *code)
{
    require_barrier(lane, shared, code);
    check(lane, shared, 8, true, access_atomic | access_write, code);
    auto found = lane.home->memory_barriers.find(shared);
    if (found == lane.home->memory_barriers.end()) fault(lane, code, "an mbarrier that nobody has initialised");
    return found->second;
}

void mbarrier_init(uint64_t *shared, uint32_t arrivals)
{
    Inside lane;
    const void *code = __builtin_return_address(0);
    require_barrier(*lane, shared, code);
    if (arrivals < 1 || arrivals >= 1u << 20) fault(*lane, code, "an mbarrier of %u arrivals", arrivals);
    check(*lane, shared, 8, true, access_write, code);
    MemoryBarrier &barrier = lane->home->memory_barriers[shared];
    barrier = MemoryBarrier();
    barrier.arrivals = barrier.pending = arrivals;
}

/* The phase ends, if it can: all have arrived, and the copies under way are all that it expects. */
static void settle(Lane &lane, MemoryBarrier &barrier, const void *code)
{
    int64_t under_way = 0;
    for (const BulkCopy &copy : barrier.copies) under_way += copy.bytes;
    if (barrier.pending > 0 || under_way < barrier.expected) return;
    if (under_way > barrier.expected)
        fault(lane, code, "copies of %lld bytes to a phase that expects %lld", static_cast<long long>(under_way),
              static_cast<long long>(barrier.expected));
    for (const BulkCopy &copy : barrier.copies) {
        size_t word = static_cast<size_t>(copy.shared - lane.home->shared) / 4;
        for (uint32_t i = 0; i < copy.bytes / 4; i++) lane.home->underway[word + i] = false;
        std::copy_n(copy.global, copy.bytes, copy.shared);
    }
    barrier.copies.clear();
    barrier.expected = 0;
    barrier.pending = barrier.arrivals;
    barrier.phase++;
    barrier.ended.join(barrier.clock);
    for (Lane *waiting : barrier.waiting) wake(*waiting);
    barrier.waiting.clear();
}

void mbarrier_arrive(uint64_t *shared, uint32_t bytes)
{
    Inside lane;
    const void *code = __builtin_return_address(0);
    MemoryBarrier &barrier = barrier_at(*lane, shared, code);
    if (bytes >= 1u << 20) fault(*lane, code, "an mbarrier that expects %u bytes", bytes);
    if (barrier.pending == 0) fault(*lane, code, "arrives at an mbarrier at which all have");
    barrier.clock.join(snapshot(*lane));
    barrier.pending--;
    barrier.expected += bytes;
    /* Copies come late: only when somebody waits for them. */
    if (!barrier.waiting.empty() || (barrier.expected == 0 && barrier.copies.empty())) settle(*lane, barrier, code);
    if (draw(2) == 0) step_aside(*lane, false);
}

void mbarrier_wait(uint64_t *shared, uint32_t parity)
{
    Inside lane;
    const void *code = __builtin_return_address(0);
    MemoryBarrier &barrier = barrier_at(*lane, shared, code);
    if (parity > 1) fault(*lane, code, "waits for a phase of parity %u", parity);
    while (barrier.phase % 2 == parity) {
        barrier.waiting.push_back(&*lane);
        settle(*lane, barrier, code);
        if (barrier.phase % 2 == parity) sleep(*lane, "a phase of an mbarrier");
    }
    learn(*lane, barrier.ended);
}

void fence_async()
{
    Inside lane;
    for (auto &entry : lane->home->memory_barriers) entry.second.fenced = true;
}

/* ---- copies: "Data Movement and Conversion Instructions: cp.async.bulk" */

void bulk_copy(void *shared, const void *global, uint32_t bytes, uint64_t *mbarrier)
{
    Inside lane;
    const void *code = __builtin_return_address(0);
    MemoryBarrier &barrier = barrier_at(*lane, mbarrier, code);
    if (!barrier.fenced) fault(*lane, code, "a bulk copy to an mbarrier that no fence_async() has followed");
    if (!is_shared(*lane, shared) || is_shared(*lane, global))
        fault(*lane, code, "a bulk copy from %p to %p, which is not from global to shared memory", global, shared);
    if (bytes == 0 || (bytes | reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16 != 0)
        fault(*lane, code, "a bulk copy of %u bytes from %p to %p: all are multiples of 16", bytes, global, shared);
    check(*lane, global, bytes, false, access_read, code);
    check(*lane, shared, bytes, false, access_write, code);
    unsigned char *to = static_cast<unsigned char *>(shared);
    size_t word = static_cast<size_t>(to - lane->home->shared) / 4;
    for (uint32_t i = 0; i < bytes / 4; i++) lane->home->underway[word + i] = true;
    std::fill_n(to, bytes, 0xff);
    barrier.copies.push_back({to, static_cast<const unsigned char *>(global), bytes});
    barrier.clock.join(snapshot(*lane));
    if (!barrier.waiting.empty()) settle(*lane, barrier, code);
}

/* ---- products: "Asynchronous Warpgroup Level Matrix Instructions: wgmma" */

static void require_products(const Lane &lane, const void *code)
{
    if (settings.architecture != 900) fault(lane, code, "wgmma needs compute capability 9.0 itself");
    if (lane.index / 128 * 128 + 128 > lane.home->lanes.size())
        fault(lane, code, "wgmma by a warp that is not one of a warpgroup of four");
}

void wgmma_fence()
{
    Inside lane;
    require_products(*lane, __builtin_return_address(0));
    lane->products_fenced = true;
}

void wgmma(float *d, int n, const uint32_t *a, uint64_t b, Element element)
{
    Inside lane;
    const void *code = __builtin_return_address(0);
    require_products(*lane, code);
    if (!lane->products_fenced) fault(*lane, code, "wgmma without wgmma.fence since the group before");
    auto same = [=](const Sums &sums) { return sums.d == d; };
    auto sums = std::find_if(lane->sums.begin(), lane->sums.end(), same);
    if (sums == lane->sums.end()) {
        lane->sums.push_back({d, std::vector<float>(d, d + n / 2), 0});
        sums = lane->sums.end() - 1;
        std::fill_n(reinterpret_cast<unsigned char *>(d), sizeof(float) * sums->values.size(), 0xff);
    }
    if (sums->values.size() != static_cast<size_t>(n / 2))
        fault(*lane, code, "wgmma of another shape on the same sums");
    sums->products++;
    lane->products.push_back({d, a, b, n, element, code});
}

void wgmma_commit()
{
    Inside lane;
    require_products(*lane, __builtin_return_address(0));
    lane->product_groups.push_back(std::move(lane->products));
    lane->products.clear();
    lane->products_fenced = false;
}

void check_registers(const Lane &lane, const void *address, size_t size, bool write, const void *code)
{
    const char *from = static_cast<const char *>(address), *end = from + size;
    auto meets = [=](const void *memory, size_t bytes) {
        const char *first = static_cast<const char *>(memory);
        return from < first + bytes && first < end;
    };
    for (const Sums &sums : lane.sums)
        if (meets(sums.d, sizeof(float) * sums.values.size()))
            fault(lane, code, "%s the sums of a wgmma that was not waited for", write ? "writes" : "reads");
    auto check_operands = [&](const std::vector<Product> &products) {
        for (const Product &product : products)
            if (write && meets(product.a, 16))
                fault(lane, code, "writes an operand of a wgmma that was not waited for");
    };
    check_operands(lane.products);
    for (const auto &group : lane.product_groups) check_operands(group);
}

/* Column 'column' of operand B, 16 elements along k: "Matrix Descriptor" and "Shared Memory Matrix Layout", K-major.
 * With the 128-byte swizzle bits 4..6 of an address are exclusive-ored with its bits 7..9. */
static const unsigned char *operand_chunk(const Lane &lane, const Product &product, unsigned column, unsigned chunk)
{
    auto field = [&](int from) { return static_cast<uint32_t>(product.b >> from & 0x3fff) << 4; };
    uint32_t swizzle = static_cast<uint32_t>(product.b >> 62), base_offset = product.b >> 49 & 7;
    if (swizzle > 1 || base_offset != 0)
        fault(lane, product.code, "wgmma with swizzle %u and base offset %u, which the executor does not know", swizzle,
              base_offset);
    uint32_t address = field(0) + column / 8 * field(32);
    if (swizzle == 0) {
        address += column % 8 * 16 + chunk * field(16);
    } else {
        address += column % 8 * 128 + chunk * 16;
        address ^= (address >> 7 & 7) << 4;
    }
    return lane.home->shared + address;
}

static void load_operand(const Warp &warp, const Product &product, std::vector<float> &b)
{
    b.resize(static_cast<size_t>(product.n) * 16);
    for (unsigned column = 0; column < static_cast<unsigned>(product.n); column++)
        for (unsigned chunk = 0; chunk < 2; chunk++) {
            Lane &lane = *warp.lanes[column % 32];
            const unsigned char *from = operand_chunk(lane, product, column, chunk);
            check(lane, from, 16, true, access_read, product.code);
            uint16_t elements[8];
            memcpy(elements, from, sizeof elements);
            for (unsigned i = 0; i < 8; i++) b[column * 16 + chunk * 8 + i] = decode(elements[i], product.element);
        }
}

/* The first product of the first group of each lane of the warp. */
static void multiply(Warp &warp, size_t index)
{
    const Product first = warp.lanes[0]->product_groups.front()[index];
    auto &issued = warp.home->warpgroups[warp.index / 4];
    if (issued.size() == warp.products) issued.push_back(first.b);
    if (issued[warp.products++] != first.b)
        fault(*warp.lanes[0], first.code, "wgmma with another descriptor than that of its warpgroup");
    static std::vector<float> b;
    load_operand(warp, first, b);
    float a[16][16];
    for (unsigned lane = 0; lane < 32; lane++) {
        const Product &product = warp.lanes[lane]->product_groups.front()[index];
        if (product.b != first.b || product.n != first.n || product.element != first.element)
            fault(*warp.lanes[lane], product.code, "wgmma with another descriptor than that of its warp");
        for (unsigned i = 0; i < 4; i++)
            for (unsigned half = 0; half < 2; half++)
                a[lane / 4 + i % 2 * 8][lane % 4 * 2 + i / 2 * 8 + half] =
                    decode(product.a[i] >> 16 * half & 0xffff, first.element);
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        Lane &self = *warp.lanes[lane];
        float *d = self.product_groups.front()[index].d;
        auto sums = std::find_if(self.sums.begin(), self.sums.end(), [=](const Sums &each) { return each.d == d; });
        for (unsigned i = 0; i < sums->values.size(); i++) {
            const float *row = a[lane / 4 + i % 4 / 2 * 8];
            const float *column = b.data() + (i / 4 * 8 + lane % 4 * 2 + i % 2) * 16;
            double sum = sums->values[i];
            for (int k = 0; k < 16; k++) sum += static_cast<double>(row[k]) * static_cast<double>(column[k]);
            sums->values[i] = static_cast<float>(sum);
        }
        if (--sums->products > 0) continue;
        std::copy(sums->values.begin(), sums->values.end(), d);
        self.sums.erase(sums);
    }
}

static void do_wait(Meeting &meeting, Warp &warp)
{
    const size_t groups = *static_cast<const size_t *>(meeting.operands[0]);
    const size_t count = warp.lanes[0]->product_groups.size();
    for (unsigned lane = 1; lane < 32; lane++)
        if (warp.lanes[lane]->product_groups.size() != count)
            fault(*warp.lanes[lane], nullptr, "waits for other wgmma than the lanes of its warp");
    for (size_t left = count; left > groups; left--) {
        for (size_t i = 0; i < warp.lanes[0]->product_groups.front().size(); i++) {
            for (unsigned lane = 1; lane < 32; lane++)
                if (warp.lanes[lane]->product_groups.front().size() <= i)
                    fault(*warp.lanes[lane], nullptr, "waits for other wgmma than the lanes of its warp");
            multiply(warp, i);
        }
        for (unsigned lane = 0; lane < 32; lane++) warp.lanes[lane]->product_groups.pop_front();
    }
}

void wgmma_wait(int groups)
{
    Inside lane;
    require_products(*lane, __builtin_return_address(0));
    size_t most = static_cast<size_t>(groups);
    meet_all(*lane, "wgmma.wait_group", &most, do_wait);
}

} // namespace simt
