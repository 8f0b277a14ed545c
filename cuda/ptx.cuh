/* The only inline PTX of the project: each wrapper one instruction, with the section of the PTX ISA manual that
 * defines it.
 *
 * Wrappers exist for compute capability 7.5 and above.  Where an instruction came later, the comment says from when,
 * and what the wrapper does before.  Pointers are generic; those that must point to shared or global memory are
 * named so.  A warp instruction (.sync.aligned) is executed by all 32 lanes together. */
#ifndef AWQ_CUDA_PTX_CUH
#define AWQ_CUDA_PTX_CUH

#include "device.cuh"

namespace ptx {

/* The 32-bit address that instructions on shared memory take.  "Data Movement and Conversion Instructions: cvta". */
DEVICE uint32_t shared_address(const void *shared)
{
#ifdef AWQ_SIMT
    return simt::shared_address(shared);
#else
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
#endif
}

/* ---- matrices from shared memory: "Warp-level Matrix Load Instruction: ldmatrix"
 *
 * Each 8 x 8 matrix of 16-bit elements is eight rows of 16 bytes.  Lane 8 i + r gives the address, aligned to 16, of
 * row r of matrix i (for x1 lanes 0..7 do, for x2 lanes 0..15; the others' addresses are not used).  Lane l receives
 * in r[i] elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of matrix i; with _trans, of column l / 4: elements
 * (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4).  The lower index is in the lower half of the register. */

DEVICE void ldmatrix_x1(uint32_t (&r)[1], const void *shared)
{
#ifdef AWQ_SIMT
    simt::ldmatrix(r, 1, false, shared);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(shared_address(shared)));
#endif
}

DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void *shared)
{
#ifdef AWQ_SIMT
    simt::ldmatrix(r, 2, false, shared);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared)));
#endif
}

DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void *shared)
{
#ifdef AWQ_SIMT
    simt::ldmatrix(r, 4, false, shared);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared)));
#endif
}

DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void *shared)
{
#ifdef AWQ_SIMT
    simt::ldmatrix(r, 2, true, shared);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared)));
#endif
}

DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void *shared)
{
#ifdef AWQ_SIMT
    simt::ldmatrix(r, 4, true, shared);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared)));
#endif
}

/* ---- tensor cores: "Warp-level Matrix Instructions: mma"
 *
 * d[16][8] += a[16][k] b[k][8], a row-major, b column-major, products and sums in single precision.  With
 * g = lane / 4 and t = lane % 4, each register holding two 16-bit elements, the lower k in its lower half:
 *   a, k = 16:  a[0] = (g, 2t..)  a[1] = (g + 8, 2t..)  a[2] = (g, 2t + 8..)  a[3] = (g + 8, 2t + 8..)
 *   a, k = 8:   a[0] = (g, 2t..)  a[1] = (g + 8, 2t..)
 *   b:          b[0] = (k = 2t.., column g)  and for k = 16  b[1] = (k = 2t + 8.., column g)
 *   d:          d[0], d[1] = (g, 2t), (g, 2t + 1)   d[2], d[3] = (g + 8, 2t), (g + 8, 2t + 1) */

/* m16n8k8, FP16: compute capability 7.5. */
DEVICE void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[2], uint32_t b, __half)
{
#ifdef AWQ_SIMT
    simt::mma(d, a, &b, 8, simt::element_f16);
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b));
#endif
}

/* m16n8k16, FP16: compute capability 8.0; on 7.5 two m16n8k8. */
DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half type)
{
#if defined(AWQ_SIMT)
    if (simt::architecture() >= 800) {
        simt::mma(d, a, b, 16, simt::element_f16);
        return;
    }
#elif AWQ_ARCH >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    return;
#endif
    mma_m16n8k8(d, {a[0], a[1]}, b[0], type);
    mma_m16n8k8(d, {a[2], a[3]}, b[1], type);
}

/* m16n8k16, BF16: compute capability 8.0; must not be reached before. */
DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16)
{
#if defined(AWQ_SIMT)
    simt::mma(d, a, b, 16, simt::element_bf16);
#elif AWQ_ARCH >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();
#endif
}

/* ---- bits */

/* Any function of three bits, 32 times: bit i of the result is bit (4 a_i + 2 b_i + c_i) of 'table'; so the table of an
 * expression is its value at a = 0xf0, b = 0xcc, c = 0xaa.  "Logic and Shift Instructions: lop3". */
template <int table>
DEVICE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c)
{
    static_assert(table >= 0 && table < 256, "a table of eight bits");
    uint32_t d;
#ifdef AWQ_SIMT
    d = simt::lop3(a, b, c, table);
#else
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(table));
#endif
    return d;
}

/* Byte i of the result is byte (selector >> 4 i) & 7 of b:a (0..3 of a, 4..7 of b), or where bit 3 of that nibble is
 * set eight copies of that byte's sign.  "Data Movement and Conversion Instructions: prmt". */
DEVICE uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector)
{
    uint32_t d;
#ifdef AWQ_SIMT
    d = simt::prmt(a, b, selector);
#else
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
#endif
    return d;
}

/* ---- asynchronous copies: "Data Movement and Conversion Instructions: Non-bulk copy: cp.async"
 *
 * 'bytes' (4, 8 or 16; both addresses aligned to it) from global to shared memory, or as many zeros when 'valid' is
 * false, and then 'global' is not read.  They arrive at some time before a wait of this lane that covers their group
 * returns; other lanes see them after a barrier behind that wait.  16 bytes pass by L1 (.cg), fewer go through it
 * (.ca), and L2 fetches 128 bytes at once.  Compute capability 8.0; on 7.5 the copy is made at once, and commit and
 * wait do nothing. */
template <int bytes>
DEVICE void cp_async(void *shared, const void *global, bool valid = true)
{
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
#if defined(AWQ_SIMT)
    simt::cp_async(shared, global, bytes, valid);
#elif AWQ_ARCH >= 800
    if (bytes == 16)
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                     "l"(global), "r"(valid ? 16 : 0)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], %2, %3;" ::"r"(shared_address(shared)),
                     "l"(global), "n"(bytes), "r"(valid ? bytes : 0)
                     : "memory");
#else
    if (bytes == 16)
        *static_cast<uint4 *>(shared) = valid ? *static_cast<const uint4 *>(global) : make_uint4(0, 0, 0, 0);
    else if (bytes == 8)
        *static_cast<uint2 *>(shared) = valid ? *static_cast<const uint2 *>(global) : make_uint2(0, 0);
    else
        *static_cast<uint32_t *>(shared) = valid ? *static_cast<const uint32_t *>(global) : 0;
#endif
}

/* Close the group of this lane's copies since the last commit; it may be empty. */
DEVICE void cp_async_commit()
{
#if defined(AWQ_SIMT)
    simt::cp_async_commit();
#elif AWQ_ARCH >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Wait until at most 'groups' of the last groups that this lane committed are still under way. */
template <int groups>
DEVICE void cp_async_wait()
{
#if defined(AWQ_SIMT)
    simt::cp_async_wait(groups);
#elif AWQ_ARCH >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
#endif
}

/* ---- loads that are used once: "Data Movement and Conversion Instructions: ld.global.nc"
 *
 * 16 bytes that no one writes while the kernel runs; they do not stay in L1, and L2 fetches 128 bytes at once. */
DEVICE uint4 load_once(const void *global)
{
    uint4 v;
#ifdef AWQ_SIMT
    v = simt::load<uint4>(global);
#else
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(global));
#endif
    return v;
}

/* ---- flags and counters between blocks: "Memory Consistency Model", ".sem" and ".scope" of ld, st, red and atom
 *
 * What this lane did before a release is seen by who acquires the value it wrote.  Other lanes' work joins it through a
 * __syncthreads() before the release, and is handed on by one behind the acquire. */

DEVICE uint32_t load_acquire(const uint32_t *global)
{
    uint32_t v;
#ifdef AWQ_SIMT
    v = simt::load_acquire(global);
#else
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(global) : "memory");
#endif
    return v;
}

DEVICE void store_release(uint32_t *global, uint32_t value)
{
#ifdef AWQ_SIMT
    simt::store_release(global, value);
#else
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(global), "r"(value) : "memory");
#endif
}

DEVICE void add_release(uint32_t *global, uint32_t value)
{
#ifdef AWQ_SIMT
    simt::add_release(global, value);
#else
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(global), "r"(value) : "memory");
#endif
}

/* The old value; acquires and releases. */
DEVICE uint32_t add_acquire_release(uint32_t *global, uint32_t value)
{
    uint32_t old;
#ifdef AWQ_SIMT
    old = simt::add_acquire_release(global, value);
#else
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(global), "r"(value) : "memory");
#endif
    return old;
}

/* The old value, which 'value' replaces if it is 'expected'; acquires and releases. */
DEVICE uint64_t compare_and_swap(uint64_t *global, uint64_t expected, uint64_t value)
{
    uint64_t old;
#ifdef AWQ_SIMT
    old = simt::modify(global, simt::acquire_release,
                       [=](uint64_t found) { return found == expected ? value : found; });
#else
    asm volatile("atom.acq_rel.gpu.global.cas.b64 %0, [%1], %2, %3;"
                 : "=l"(old)
                 : "l"(global), "l"(expected), "l"(value)
                 : "memory");
#endif
    return old;
}

/* ---- barriers of some warps: "Parallel Synchronization and Communication Instructions: bar"
 *
 * Barrier 'id' (1..15; 0 is __syncthreads) of 'threads' threads, a multiple of 32: sync waits for all, arrive only
 * counts. */

DEVICE void barrier_sync(int id, int threads)
{
#ifdef AWQ_SIMT
    simt::barrier(id, threads, true);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

DEVICE void barrier_arrive(int id, int threads)
{
#ifdef AWQ_SIMT
    simt::barrier(id, threads, false);
#else
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

/* ---- barriers in shared memory: "Parallel Synchronization and Communication Instructions: mbarrier"
 *
 * Eight bytes, aligned to them.  Phases follow each other: one ends when as many lanes as init said have arrived and
 * all bytes that were expected have come; then the next one begins with the same count.  What a lane did before it
 * arrived is seen by those who waited for the phase.  Compute capability 9.0; must not be reached before. */

/* One lane; the others see it behind a barrier of the block, and copies behind fence_async(). */
DEVICE void mbarrier_init(uint64_t *shared, uint32_t arrivals)
{
#if defined(AWQ_SIMT)
    simt::mbarrier_init(shared, arrivals);
#elif AWQ_ARCH >= 900
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(shared)), "r"(arrivals) : "memory");
#else
    __trap();
#endif
}

DEVICE void mbarrier_arrive(uint64_t *shared)
{
#if defined(AWQ_SIMT)
    simt::mbarrier_arrive(shared, 0);
#elif AWQ_ARCH >= 900
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(shared)) : "memory");
#else
    __trap();
#endif
}

/* Arrive, and let this phase wait for 'bytes' bytes of copies, too. */
DEVICE void mbarrier_arrive_expect(uint64_t *shared, uint32_t bytes)
{
#if defined(AWQ_SIMT)
    simt::mbarrier_arrive(shared, bytes);
#elif AWQ_ARCH >= 900
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(shared)), "r"(bytes)
                 : "memory");
#else
    __trap();
#endif
}

/* Wait for the end of the phase of this parity, of those that alternate 0, 1, 0 ... from init on.  The phase before
 * the first counts as ended. */
DEVICE void mbarrier_wait(uint64_t *shared, uint32_t parity)
{
#if defined(AWQ_SIMT)
    simt::mbarrier_wait(shared, parity);
#elif AWQ_ARCH >= 900
    uint32_t ended;
    do {
        asm volatile("{\n\t.reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(ended)
                     : "r"(shared_address(shared)), "r"(parity)
                     : "memory");
    } while (ended == 0);
#else
    __trap();
#endif
}

/* ---- bulk copies: "Data Movement and Conversion Instructions: Bulk copy: cp.async.bulk"
 *
 * 'bytes' from global to shared memory, a multiple of 16 as both addresses are; one lane.  They count towards the
 * bytes that the barrier's phase expects, and are seen by who has waited for it.  Compute capability 9.0; must not be
 * reached before. */
DEVICE void bulk_copy(void *shared, const void *global, uint32_t bytes, uint64_t *mbarrier)
{
#if defined(AWQ_SIMT)
    simt::bulk_copy(shared, global, bytes, mbarrier);
#elif AWQ_ARCH >= 900
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(shared)),
                 "l"(global), "r"(bytes), "r"(shared_address(mbarrier))
                 : "memory");
#else
    __trap();
#endif
}

/* What this lane wrote to shared memory is there for bulk copies and wgmma that follow: "Memory Consistency Model:
 * Proxies". */
DEVICE void fence_async()
{
#if defined(AWQ_SIMT)
    simt::fence_async();
#elif AWQ_ARCH >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
    __trap();
#endif
}

/* ---- tensor cores of four warps: "Asynchronous Warpgroup Level Matrix Instructions: wgmma"
 *
 * d[64][n] += a[64][16] b[16][n] for a warpgroup, four warps from a multiple of four on, in the background.  Warp w
 * has rows 16 w .. 16 w + 15; its a lies in registers as an mma's, and its d as n / 8 of them next to each other: with
 * g = lane / 4 and t = lane % 4
 *   d[4 i + 2 h + e] = (16 w + g + 8 h, 8 i + 2 t + e)
 * b is in shared memory, where a descriptor finds it.  From a wgmma to the wait for its group, neither d nor a may be
 * touched, but by further wgmma of the same shape on the same d.  sm_90a only. */

#if AWQ_WGMMA

/* b as n rows of 64 16-bit elements, 128 bytes, from an address aligned to 1024, whose chunks of 16 bytes are
 * exclusive-ored by row % 8: "Matrix Descriptor", K-major, 128-byte swizzle, 1024 bytes from eight rows to the next
 * eight.  A step of 16 elements along a row adds 2. */
DEVICE uint64_t wgmma_descriptor(const void *shared)
{
    const uint64_t swizzle_128 = 1ull << 62, stride = (1024ull >> 4) << 32;
    const uint64_t leading = 1ull << 16; /* not used when swizzled along k */
    return swizzle_128 | stride | leading | (shared_address(shared) & 0x3ffffu) >> 4;
}

/* Before the first wgmma that uses registers which other instructions have written. */
DEVICE void wgmma_fence()
{
#ifdef AWQ_SIMT
    simt::wgmma_fence();
#else
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

/* Change how many registers each thread of this warpgroup has, a multiple of 8: fewer at once, more when they are free.
 * "Miscellaneous Instructions: setmaxnreg". */
template <int registers, bool more>
DEVICE void set_registers()
{
    static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256, "24, 32 .. 256 registers");
#ifndef AWQ_SIMT
    if (more) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
    else asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
#endif
}

/* Close the group of wgmma since the last commit. */
DEVICE void wgmma_commit()
{
#ifdef AWQ_SIMT
    simt::wgmma_commit();
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

/* Wait until at most 'groups' groups are still under way. */
template <int groups>
DEVICE void wgmma_wait()
{
#ifdef AWQ_SIMT
    simt::wgmma_wait(groups);
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
#endif
}

/* Wait for all, and let the compiler read d only behind it. */
template <int count>
DEVICE void wgmma_finish(float (&d)[count])
{
    wgmma_wait<0>();
#ifdef AWQ_SIMT
    (void)d;
#else
#pragma unroll
    for (int i = 0; i < count; i++) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

#ifndef AWQ_SIMT

/* Lists of operands, "+f" of d[from] and those that follow. */
#define AWQ_D4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define AWQ_D8(i) AWQ_D4(i), AWQ_D4((i) + 4)
#define AWQ_D16(i) AWQ_D8(i), AWQ_D8((i) + 8)
#define AWQ_D32(i) AWQ_D16(i), AWQ_D16((i) + 16)
#define AWQ_D48(i) AWQ_D32(i), AWQ_D16((i) + 32)
#define AWQ_D64(i) AWQ_D32(i), AWQ_D32((i) + 32)
#define AWQ_D96(i) AWQ_D64(i), AWQ_D32((i) + 64)
#define AWQ_D128(i) AWQ_D64(i), AWQ_D64((i) + 64)

/* And their names. */
#define AWQ_N8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define AWQ_N16                                                                                                        \
    AWQ_N8 ", "                                                                                                        \
    "%8, %9, %10, %11, %12, %13, %14, %15"
#define AWQ_N32                                                                                                        \
    AWQ_N16 ", "                                                                                                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define AWQ_N48                                                                                                        \
    AWQ_N32 ", "                                                                                                       \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define AWQ_N64                                                                                                        \
    AWQ_N48 ", "                                                                                                       \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define AWQ_N96                                                                                                        \
    AWQ_N64 ", "                                                                                                       \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, "                            \
    "%81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define AWQ_N128                                                                                                       \
    AWQ_N96 ", "                                                                                                       \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "                           \
    "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, "                             \
    "%125, %126, %127"

#define AWQ_WGMMA_OF(n, count, type, rest)                                                                             \
    asm volatile("{\n\t.reg .pred p;\n\tsetp.eq.u32 p, 0, 0;\n\t"                                                      \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" AWQ_N##count "}, " rest          \
                 ", p, 1, 1, 0;\n\t}"                                                                                  \
                 : AWQ_D##count(0)                                                                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

#define AWQ_WGMMA_ANY(type)                                                                                            \
    if constexpr (n == 16) AWQ_WGMMA_OF(16, 8, type, "{%8, %9, %10, %11}, %12");                                       \
    if constexpr (n == 32) AWQ_WGMMA_OF(32, 16, type, "{%16, %17, %18, %19}, %20");                                    \
    if constexpr (n == 64) AWQ_WGMMA_OF(64, 32, type, "{%32, %33, %34, %35}, %36");                                    \
    if constexpr (n == 96) AWQ_WGMMA_OF(96, 48, type, "{%48, %49, %50, %51}, %52");                                    \
    if constexpr (n == 128) AWQ_WGMMA_OF(128, 64, type, "{%64, %65, %66, %67}, %68");                                  \
    if constexpr (n == 192) AWQ_WGMMA_OF(192, 96, type, "{%96, %97, %98, %99}, %100");                                 \
    if constexpr (n == 256) AWQ_WGMMA_OF(256, 128, type, "{%128, %129, %130, %131}, %132")

#endif

template <int n>
DEVICE void wgmma(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, __half)
{
#ifdef AWQ_SIMT
    simt::wgmma(d, n, a, b, simt::element_f16);
#else
    AWQ_WGMMA_ANY("f16");
#endif
}

template <int n>
DEVICE void wgmma(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, __nv_bfloat16)
{
#ifdef AWQ_SIMT
    simt::wgmma(d, n, a, b, simt::element_bf16);
#else
    AWQ_WGMMA_ANY("bf16");
#endif
}

#endif /* AWQ_WGMMA */

/* ---- overlapping kernels: "Parallel Synchronization and Communication Instructions: griddepcontrol"
 *
 * For a kernel launched with 'overlap'.  Compute capability 9.0; before, kernels do not overlap. */

#if defined(AWQ_SIMT)
DEVICE bool grids_overlap()
{
    return simt::device().architecture >= 900;
}
#else
DEVICE constexpr bool grids_overlap()
{
    return AWQ_ARCH >= 900;
}
#endif

/* Wait until the kernels ahead have ended and what they wrote is visible. */
DEVICE void grid_wait()
{
#if defined(AWQ_SIMT)
    simt::grid_wait();
#elif AWQ_ARCH >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Let the kernel behind begin once every block has said so or ended; its grid_wait() still waits for this grid's
 * end. */
DEVICE void grid_launch_dependents()
{
#if defined(AWQ_SIMT)
    simt::grid_launch_dependents();
#elif AWQ_ARCH >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

} // namespace ptx

#endif /* AWQ_CUDA_PTX_CUH */
