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

#ifndef AWQ_SIMT
/* The 32-bit address that instructions on shared memory take.  "Data Movement and Conversion Instructions: cvta". */
DEVICE uint32_t shared_address(const void *shared)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
#endif

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

/* ---- overlapping kernels: "Parallel Synchronization and Communication Instructions: griddepcontrol"
 *
 * For a kernel launched with 'overlap'.  Compute capability 9.0; before, kernels do not overlap. */

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
