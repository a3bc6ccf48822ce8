#!/usr/bin/env bash
# --bias-bits: one width for all, several to choose from, rules, a policy that is read again; the C
# with narrow biases computes what the engine does and holds fewer bytes.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
model=$root/examples/glyphs.onnx
quick=(--threads 1 --data builtin:glyphs --limit 100 --calib 32 --quiet)
uniform=("${quick[@]}" --weight-bits 4 --search uniform --max-size 1M --emit c)

bytes_of() {
    tr -d ' \n' < "$1/results.json" | sed -E 's/.*"quantized":\{[^}]*"bytes":([0-9]+).*/\1/'
}
for bits in 8 16 32; do
    works quantize "$model" "${uniform[@]}" --bias-bits $bits -o b$bits
    tr -d ' \n' < b$bits/policy.json > flat
    says flat "\"kind\":\"bias\",\"layer\":\"/fc/Gemm\",\"scheme\":\"uniform\",\"bits\":$bits"
    (cd b$bits/c && cc -std=c99 -O1 -o t ./*.c && ./t > out) || fail "C with $bits-bit biases"
    says b$bits/c/out ", 0 wrong values"
done
[[ $(bytes_of b8) -lt $(bytes_of b16) && $(bytes_of b16) -lt $(bytes_of b32) ]] || fail "bytes"

# a policy read again gives the same network
works quantize "$model" "${quick[@]}" --emit c --policy b8/policy.json -o again
cmp b8/model.onnx again/model.onnx || fail "model.onnx of the same policy"
[[ $(bytes_of again) == $(bytes_of b8) ]] || fail "bytes of the same policy"

# several widths: part of the search; a rule fixes those of one layer
works quantize "$model" "${quick[@]}" --bias-bits 8,16,32 --rule 'fc:,,16' --weight-bits 4 \
    --search sensitivity:refine=2 --max-size 27300 -o chosen
tr -d ' \n' < chosen/policy.json > flat
says flat '"layer":"/fc/Gemm","scheme":"uniform","bits":16,"fixed":true'

# curvature knows that narrow ones cost something: with room for it hardly any of the ten stays narrow
# (a trace near 0 may be estimated below it)
works quantize "$model" "${quick[@]}" --calib 8 --bias-bits 8,16,32 --weight-bits 8 --search hawq \
    --max-size 200K --ptq none -o wide
wide=$(tr -d ' \n' < wide/policy.json | grep -oE '"kind":"bias"[^}]*"bits":32' | wc -l)
[[ $wide -ge 7 ]] || fail "hawq takes narrow biases for free: $wide of 10 are wide"

refuses 2 "'12' is not a width of biases" quantize "$model" --dry-run --bias-bits 8,12
refuses 2 "8, 16 and 32 are possible" quantize "$model" --dry-run --rule 'fc:8,8,9'
sed '/"kind": "bias"/,/"bits"/s/"bits": 8/"bits": 12/' b8/policy.json > bad.json
refuses 1 "has 12 bits; 8, 16 and 32 are possible" quantize "$model" "${quick[@]}" \
    --policy bad.json -o bad

if ((failures)); then
    echo "$failures failures"
    exit 1
fi
echo "biases of 8, 16 and 32 bits: $(bytes_of b8), $(bytes_of b16), $(bytes_of b32) bytes"
