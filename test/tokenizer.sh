#!/bin/sh
# Compare the host application's tokenizers with the packages tokenizers and sentencepiece, where the Python in AWQ_PYTHON has them.
cd "$(dirname "$0")/.." || exit 1
"${AWQ_PYTHON:-python3}" test/interop/tokenizer.py "${BUILD:-build}/test/app_tokenizer" || exit $?
