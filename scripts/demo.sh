#!/usr/bin/env bash
# The main job on what comes with the repository: quantize the small glyph classifier to a size
# limit, emit C, compile the C with the system's compiler and run the self test inside it.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build}
out=$build/demo
rm -rf "$out"

say() { printf '\n== %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }

say "Quantize examples/glyphs.onnx to at most 24 KiB and emit C"
run "$build/nibble" quantize examples/glyphs.onnx --data builtin:glyphs --max-size 24K \
    --emit c -o "$out"

say "Compile the emitted C (C99, nothing but the compiler) and run its self test"
run "${CC:-cc}" -std=c99 -O2 -Wall -I"$out/c" "$out"/c/*.c -o "$out/model_test"
run "$out/model_test"

say "The delivered model on the integer engine"
run "$build/nibble" eval "$out" --data builtin:glyphs

say "Results"
ls -l "$out"
