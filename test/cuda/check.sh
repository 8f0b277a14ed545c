#!/bin/sh
# The CUDA kernels on this machine's GPU, then again under the tools of compute-sanitizer where that is installed, all
# at the same time.  Exit status 77 with a reason where there is no GPU.
#
# Needs nothing but a driver and what 'make bundle-gpu' puts into one directory: BUILD=that sh test/cuda/check.sh
set -u
cd "$(dirname "$0")/../.."
build=$(realpath "${BUILD:-build}")
export AWQ_CUDA_BACKEND="$build/libawq_cuda.so" AWQ_APP_CUDA="$build/libawq_app_cuda.so"
export LD_LIBRARY_PATH="$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
outputs=$(mktemp -d)
trap 'rm -rf "$outputs"' EXIT
minutes=7
end=$(($(date +%s) + 60 * minutes))

# within COMMAND...: what is left of the time, and a word when it is up.
within() {
    timeout $((end > $(date +%s) ? end - $(date +%s) : 1)) "$@"
    code=$?
    [ $code -ne 124 ] || echo "$minutes minutes are up, in: $*"
    return $code
}

within "$build/test/cuda/kernels"
status=$?
[ $status -eq 0 ] || exit $status
programs=quantize
[ ! -x "$build/test/cuda/application" ] || programs="quantize application"
for program in streams $programs; do
    within "$build/test/cuda/$program" || exit 1
done
[ "$programs" != quantize ] || echo "the host application was not built: only the library was checked"

# sanitize TOOL: its words about all programs.
sanitize() {
    for program in kernels $programs; do
        echo "compute-sanitizer $1, $program"
        within compute-sanitizer --tool "$1" --error-exitcode 1 "$build/test/cuda/$program" -s 2 || return 1
    done
}

tools="memcheck racecheck initcheck synccheck"
if ! command -v compute-sanitizer >/dev/null; then
    echo "compute-sanitizer is not installed: its checks did not run"
    tools=
fi
for tool in $tools; do
    sanitize $tool >"$outputs/$tool" 2>&1 || : >"$outputs/$tool.failed" &
done
wait
failed=0
for tool in $tools; do
    if grep -q "Device not supported" "$outputs/$tool"; then
        echo "compute-sanitizer $tool: it does not support this device"
        continue
    fi
    tail -n 60 "$outputs/$tool"
    [ ! -e "$outputs/$tool.failed" ] || failed=1
done
[ $failed -eq 0 ]
