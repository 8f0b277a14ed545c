/* Products by a stream with SDOT, four bytes at a time. */
#include "neon_bytes.h"

#if defined(__aarch64__)
#include "neon.h"

#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#define MATRIX 0

#include "neon_bytes_body.h"

FORM(bytes, 1, false)
ROW(bytes, 1)
FORM(digits, AWQI_NEON_DIGITS, false)
ROW(digits, AWQI_NEON_DIGITS)
STRIP(bytes_strip, 1, false)
STRIP(digits_strip, AWQI_NEON_DIGITS, false)

enum { LEAST = 4, MOST = 8 }; /* rows of a strip */

#define FEATURES (AWQ_CPU_NEON | AWQ_CPU_NEON_DOTPROD)
#define ALL_BUT_BYTES (1u << AWQ_ACTIVATION_EXACT | 1u << AWQ_ACTIVATION_SPLIT | 1u << AWQ_ACTIVATION_BF16)

const struct awqi_gemv awqi_gemv_neon_dotprod = {"neon-dotprod-int8", FEATURES, 1u << AWQ_ACTIVATION_INT8,
    bytes_row_bytes, bytes_prepare, bytes_run};
const struct awqi_gemv awqi_gemv_neon_dotprod_digits = {"neon-dotprod-int24", FEATURES, ALL_BUT_BYTES,
    digits_row_bytes, digits_prepare, digits_run};
const struct awqi_gemm awqi_gemm_neon_dotprod = {"neon-dotprod-int8-gemm", FEATURES, 1u << AWQ_ACTIVATION_INT8, LEAST,
    MOST, bytes_row_bytes, bytes_strip_prepare, bytes_run};
const struct awqi_gemm awqi_gemm_neon_dotprod_digits = {"neon-dotprod-int24-gemm", FEATURES, ALL_BUT_BYTES, LEAST, MOST,
    digits_row_bytes, digits_strip_prepare, digits_run};
#endif
