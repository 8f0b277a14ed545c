#!/bin/sh
# The host application with --device cuda on the executor: as devices of two generations run it, the text that it
# generates, and what it says where it cannot run.
set -u
cd "$(dirname "$0")/../.."
build=$(realpath "${BUILD:-build}")
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
passed=0 failed=0
simt=$build/libawq_cuda_simt.so
export AWQ_CUDA_BACKEND="$simt" AWQ_APP_CUDA="$simt"

good() { passed=$((passed + 1)); }
bad() {
    echo "$1"
    failed=$((failed + 1))
}

# One has no BF16, the other starts kernels before the ones ahead have ended; and quantising, once.
for device in "75 3 *_the_processors" "90 7 *"; do
    set -f
    set -- $device
    output=$(AWQ_SIMT_ARCH=$1 AWQ_SIMT_SMS=$2 AWQ_SIMT_SEED=$1 "$build/test/cuda/application" "$3" 2>&1) && good ||
        bad "$output"
done

generate() { "$build/awq" generate examples/models/docs-6m -p "The file" --tokens 4 "$@" 2>&1; }
expected=$(generate)
found=$(AWQ_SIMT_RACES=0 generate --device cuda)
[ "$expected" = "$found" ] && good || bad "the processor wrote '$expected', the GPU '$found'"

# Statistics that the GPU found, and a run that was killed after some layers: the same files as from one that was not.
export AWQ_SIMT_RACES=0
run="--device cuda --quiet -o $directory"
quantize="$build/awq quantize examples/models/docs-6m --stats $directory/statistics --no-scale-o --resume
    --exclude layers\.[1-5]|mlp|[qkv]_proj $run"
"$build/awq" calibrate examples/models/docs-6m --text examples/models/prose.txt --samples 1 --seq-length 16 \
    --search-tokens 16 $run/statistics && good || bad "no statistics"
$quantize/whole && good || bad "quantize --stats --resume"
$quantize/resumed &
process=$!
while [ ! -e "$directory/resumed.journal/block-00001" ] && kill -0 $process 2>/dev/null; do sleep 0.02; done
kill -KILL $process 2>/dev/null
wait $process 2>/dev/null
[ -e "$directory/resumed" ] || $quantize/resumed
diff -r "$directory/whole" "$directory/resumed" && good || bad "resumed, the result is another"
unset AWQ_SIMT_RACES

# expect STATUS TEXT NAME=VALUE...: --device cuda ends so and says that, in one line, with these variables set.
expect() {
    status=$1 text=$2
    shift 2
    said=$(env "$@" "$build/awq" generate examples/models/docs-6m -p a --device cuda 2>&1)
    found=$?
    [ "$found" -eq "$status" ] && [ "$(echo "$said" | wc -l)" -eq 1 ] && echo "$said" | grep -q "$text" && good ||
        bad "status $found where $status was expected, and \"$text\" in: $said"
}

driver() {
    ${CC:-cc} -shared -fPIC -DDRIVER_VERSION="$1" -DINIT_RESULT="$2" test/cuda/driver.c \
        -o "$directory/libcuda.so.1" || exit 1
}

expect 1 "no backend: .*absent.so" AWQ_CUDA_BACKEND="$directory/absent.so"
expect 1 "compute capability 7.0; 7.5 or later is needed" AWQ_SIMT_ARCH=70
expect 1 "no kernels: .*absent.so" AWQ_APP_CUDA="$directory/absent.so"
expect 1 "libawq.so is of another version" AWQ_APP_CUDA="$build/libawq.so"
if [ -e "$build/libawq_cuda.so" ]; then
    real=AWQ_CUDA_BACKEND=$build/libawq_cuda.so
    ldconfig -p | grep -q libcuda.so.1 || expect 1 "no driver: libcuda.so.1" "$real"
    driver 11020 0
    expect 1 "too old: it serves CUDA 11.2" "$real" LD_LIBRARY_PATH="$directory"
    driver 99000 100
    expect 1 "no GPU that it lets this process use" "$real" LD_LIBRARY_PATH="$directory"
fi
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
