#!/usr/bin/env bash
# The whole way, on what comes with the repository: train a small network on drawn glyphs, choose
# widths under a size limit, fine-tune them, emit C, compile it with the system's compiler and run the
# self test inside it.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build}
out=$build/demo
rm -rf "$out"
mkdir -p "$out"

say() { printf '\n== %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }

say "A network from nothing: ResNet-8 at half its width, trained on 20,000 drawn glyphs (ten shapes,
   noise, clutter). Five passes reach about 87 % on images that it has not seen; chance is 10 %."
run "$build/nibble" new resnet8 --width 0.5 --input 3x32x32 --classes 10 -o "$out/random.onnx"
run "$build/nibble" train "$out/random.onnx" --data builtin:glyphs --mean 0.5 --std 0.25 \
    --epochs 5 --batch 64 --lr 0.2 --warmup 0.5 --augment none -o "$out/float.onnx"

say "At most 10 KiB: a width for every weight tensor, activations of 4 bits, then one pass of training
   with quantization in the loop (the line before it says what rounding alone leaves), and C."
run "$build/nibble" quantize "$out/float.onnx" --data builtin:glyphs --max-size 10K \
    --activation-bits 4 --finetune 1 --lr 0.02 --batch 64 --augment none --emit c -o "$out/run"

say "Compile the emitted C (C99, nothing but the compiler) and run its self test"
run "${CC:-cc}" -std=c99 -O2 -Wall -I"$out/run/c" "$out"/run/c/*.c -o "$out/model_test"
run "$out/model_test"

say "The delivered model on the integer engine: the same arithmetic, bit for bit"
run "$build/nibble" eval "$out/run" --data builtin:glyphs

say "Results ('nibble finetune $out/run --epochs 5' would go on from here)"
ls -l "$out/run"
