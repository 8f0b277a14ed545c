#!/bin/sh
# No kernel keeps registers in memory or has its wgmma run one by one: what ptxas said when it made them tells of no
# spill, no stack frame and no loss, for each architecture that was built.  Exit status 77 with a reason where nothing was.
set -eu
cd "$(dirname "$0")/../.."
reports=${CUDA_REPORTS:-$(ls "${BUILD:-build}"/cuda/*.ptxas 2>/dev/null || :)}
[ -n "$reports" ] || { echo "no CUDA kernel was built"; exit 77; }
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

# Prints the kernels that spill, fails if there are any, and counts the others by architecture.
cat >"$directory/spills.awk" <<'END'
/Compiling entry function/ { name = $(NF - 2); arch = $NF }
/bytes stack frame/ {
    kernels[arch]++
    total++
    if ($1 || $5 || $9) { print FILENAME ": " name " for " arch ":" $0; spilled = 1 }
}
/Performance Loss|setmaxnreg ignored/ { print FILENAME ": " $0; spilled = 1 }
/Used [0-9]+ registers/ { for (i = 1; i < NF; i++) if ($i == "Used" && $(i + 1) > most[arch]) most[arch] = $(i + 1) }
END {
    for (arch in kernels) print kernels[arch] " kernels for " arch ", of at most " most[arch] " registers"
    if (!total) print "no kernel is named in what ptxas said"
    exit spilled || !total
}
END

# A kernel that must be noticed: as many sums as the registers that it may have.
cat >"$directory/spill.cu" <<'END'
__global__ void spill(const float *x, float *y)
{
    float sums[64] = {};
    for (int i = 0; i < 64; i++)
#pragma unroll
        for (int j = 0; j < 64; j++) sums[j] += x[64 * i + j] * sums[(j + 1) % 64];
#pragma unroll
    for (int j = 0; j < 64; j++) y[j] = sums[j];
}
END
"${NVCC:-nvcc}" -cubin -maxrregcount 32 -Xptxas -v -o "$directory/spill.cubin" "$directory/spill.cu" 2>"$directory/spill.ptxas"
if awk -f "$directory/spills.awk" "$directory/spill.ptxas" >/dev/null; then
    echo "a kernel that spills was not noticed:"
    cat "$directory/spill.ptxas"
    exit 1
fi
# shellcheck disable=SC2086
awk -f "$directory/spills.awk" $reports
