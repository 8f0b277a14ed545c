/* Products by a stream with USMMLA, eight bytes of two rows at a time. */
#include "neon_bytes.h"

#if defined(__aarch64__)
#include "neon.h"

#define TARGET __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#define MATRIX 1

#include "neon_bytes_body.h"

FORM(bytes, 1, false)
ROW(bytes, 1)
FORM(digits, AWQI_NEON_DIGITS, false)
ROW(digits, AWQI_NEON_DIGITS)
FORM(byte_pairs, 1, true)
STRIP(byte_pairs, 1, true)
FORM(digit_pairs, AWQI_NEON_DIGITS, true)
STRIP(digit_pairs, AWQI_NEON_DIGITS, true)

enum { LEAST = 4, MOST = 8 }; /* rows of a strip */

#define FEATURES (AWQ_CPU_NEON | AWQ_CPU_NEON_DOTPROD | AWQ_CPU_NEON_I8MM)
#define ALL_BUT_BYTES (1u << AWQ_ACTIVATION_EXACT | 1u << AWQ_ACTIVATION_SPLIT | 1u << AWQ_ACTIVATION_BF16)

const struct awqi_gemv awqi_gemv_neon_i8mm = {"neon-i8mm-int8", FEATURES, 1u << AWQ_ACTIVATION_INT8,
    bytes_row_bytes, bytes_prepare, bytes_run};
const struct awqi_gemv awqi_gemv_neon_i8mm_digits = {"neon-i8mm-int24", FEATURES, ALL_BUT_BYTES,
    digits_row_bytes, digits_prepare, digits_run};
const struct awqi_gemm awqi_gemm_neon_i8mm = {"neon-i8mm-int8-gemm", FEATURES, 1u << AWQ_ACTIVATION_INT8, LEAST, MOST,
    byte_pairs_row_bytes, byte_pairs_prepare, byte_pairs_run};
const struct awqi_gemm awqi_gemm_neon_i8mm_digits = {"neon-i8mm-int24-gemm", FEATURES, ALL_BUT_BYTES, LEAST, MOST,
    digit_pairs_row_bytes, digit_pairs_prepare, digit_pairs_run};
#endif
