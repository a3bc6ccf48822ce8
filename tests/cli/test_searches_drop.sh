#!/usr/bin/env bash
# --max-drop with every search method: the one that was named runs, the bound is kept and reported.
# And what `run --expect` says of an output that differs.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
model=$root/examples/glyphs.onnx
quick=(--threads 1 --data builtin:glyphs --limit 200 --calib 32 --weight-bits 2,4,8 --max-drop 20 --quiet)

sizes=""
for method in auto uniform random:trials=12 sensitivity:refine=4 \
    genetic:population=6,parents=2,iterations=2 greedy:local=1 haq:episodes=6,warmup=3,hidden=16 \
    hawq fixedpoint:rounds=2 quantune:trials=12,first=6,trees=20,pool=40; do
    name=${method%%:*}
    works quantize "$model" "${quick[@]}" --search "$method" -o "$name"
    [[ $name != auto ]] || name=sensitivity
    tr -d ' \n' < "${method%%:*}/results.json" > flat
    says flat "\"method\":\"$name\""
    says flat '"limit":"max-drop"'
    says flat '"met":true'
    # why this policy: neighbours of the choice, and how well the sums agreed
    says flat '"agreement":{"kendall_tau":'
    says flat '"more":{"bits":'
    says flat '"estimated":false'
    bytes=$(sed -E 's/.*"quantized":\{[^}]*"bytes":([0-9.]+).*/\1/' flat)
    sizes+=" ${method%%:*}=${bytes%.*}"
    # 8-bit weights everywhere take 101 K; a drop of 20 points leaves room for much less
    [[ ${bytes%.*} -lt 40000 ]] || fail "$method: $bytes bytes"
done

# ---- what few images can show --------------------------------------------------------------------
# 100 images of which none changes leave a drop of 2.3 points possible; the default asks no more of them
few=(--threads 1 --data builtin:glyphs --limit 100 --calib 32 --weight-bits 8 --ptq none)
refuses 3 "max-drop 1 points cannot be met" quantize "$model" "${few[@]}" --max-drop 1 -o few
says err "100 images bound a drop by 2.3 points at best"
works quantize "$model" "${few[@]}" -o few-default
tr -d ' \n' < few-default/results.json > flat
says flat '"validation_drop":{"mean":0.0,"bound":2.302'

# ---- a limit on time, without figures of energy --------------------------------------------------
works quantize "$model" --threads 1 --data builtin:glyphs --limit 64 --calib 32 --weight-bits 4,8 --ptq none \
    --max-latency 5s --search sensitivity:refine=0 --quiet -o timed
tr -d ' \n' < timed/results.json > flat
says flat '"met":true'
says flat '"fits":true'

# ---- a limit on bytes is one on what is delivered -------------------------------------------------
works quantize "$model" --threads 1 --data builtin:glyphs --limit 128 --calib 32 --granularity tensor --ptq none \
    --max-size 30K --search sensitivity:refine=0 --quiet -o sized
tr -d ' \n' < sized/results.json > flat
bytes=$(sed -E 's/.*"quantized":\{[^}]*"bytes":([0-9]+).*/\1/' flat)
says flat "\"limit\":\"max-size\",\"wanted\":30720,\"got\":$bytes,\"ok\":true"
[[ $bytes -le 30720 && $bytes -gt 30000 ]] || fail "--max-size 30K: $bytes bytes"

# ---- run --expect --------------------------------------------------------------------------------
# a version 1 .npy of 1x3x32x32 floats, header of 128 bytes
tensor_file() { # FILE BYTE
    printf '\x93NUMPY\x01\x00\x76\x00' > "$1"
    printf '%-117s\n' "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 32, 32), }" >> "$1"
    head -c 12288 /dev/zero | tr '\0' "$2" >> "$1"
}
tensor_file zeros.npy '\000'
tensor_file others.npy '\077' # 0.747
works run "$model" --input zeros.npy --output one --json
name=$(tr -d ' \n' < out | sed -E 's/.*"outputs":\[\{"name":"([^"]+)".*/\1/')
works run "$model" --input zeros.npy --expect one/output_0.pb
refuses 1 "output '$name' differs from 'one/output_0.pb' by up to" run "$model" --input others.npy \
    --expect one/output_0.pb
refuses 1 "output '$name' differs from 'zeros.npy' in shape" run "$model" --input zeros.npy \
    --expect zeros.npy

if ((failures)); then
    echo "$failures failures"
    exit 1
fi
echo "every method keeps --max-drop:$sizes"
