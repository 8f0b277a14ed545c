#!/bin/sh
# Compare the host application's tokenizers with the packages tokenizers and sentencepiece, where AWQ_PYTHON has them.
cd "$(dirname "$0")/.." || exit 1
python=${AWQ_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "there is no $python"; exit 77; }
exec "$python" test/interop/tokenizer.py "${BUILD:-build}/test/app_tokenizer"
