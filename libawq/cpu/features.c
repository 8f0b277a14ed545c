/* What the processor can do and the operating system has switched on. */
#include "cpu.h"

#include <stdlib.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* The vector state that the operating system saves on a context switch.  A processor may have AVX-512 under a kernel
 * that does not save its registers; using it then corrupts other programs' data, so cpuid alone decides nothing. */
static uint32_t enabled_vector_state(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static uint32_t detect(void)
{
    enum { AVX_STATE = 0x6, AVX512_STATE = 0xe6 }; /* XCR0: xmm, ymm; with opmask and both halves of zmm */
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) return 0;
    uint32_t state = enabled_vector_state();
    if ((state & AVX_STATE) != AVX_STATE || !(ecx & bit_AVX) || !(ecx & bit_FMA) || !(ecx & bit_F16C)) return 0;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(ebx & bit_AVX2)) return 0;
    uint32_t features = AWQ_CPU_AVX2;
    uint32_t needed = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if ((state & AVX512_STATE) != AVX512_STATE || (ebx & needed) != needed) return features;
    features |= AWQ_CPU_AVX512;
    if (ecx & bit_AVX512VNNI) features |= AWQ_CPU_AVX512_VNNI;
    if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & bit_AVX512BF16))
        features |= AWQ_CPU_AVX512_BF16;
    return features;
}

#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

static uint32_t detect(void)
{
    unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    uint32_t features = AWQ_CPU_NEON; /* part of the base architecture */
    if (first & HWCAP_ASIMDDP) features |= AWQ_CPU_NEON_DOTPROD;
    if (second & HWCAP2_I8MM) features |= AWQ_CPU_NEON_I8MM;
    if (second & HWCAP2_BF16) features |= AWQ_CPU_NEON_BF16;
    return features;
}

#else

static uint32_t detect(void)
{
    return 0;
}

#endif

uint32_t awqi_cpu_features(void)
{
    uint32_t features = detect();
    const char *text = getenv("AWQ_CPU_FEATURES");
    if (text == NULL || *text == 0) return features;
    char *end;
    unsigned long mask = strtoul(text, &end, 0);
    return *end == 0 ? features & (uint32_t)mask : features;
}
