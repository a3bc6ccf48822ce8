#!/usr/bin/env bash
# --search fracbits and dq: widths learned as fractions, or from steps and ranges; limits kept,
# interrupted and gone on with.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
model=$root/examples/glyphs.onnx
quick=(--threads 1 --data builtin:glyphs --limit 300 --calib 32 --batch 32 --quiet
    --weight-bits 2,4 --activation-bits 4,8)

number() { sed -E "s/.*\"quantized\":\{[^}]*\"$1\":([0-9.e+]+).*/\1/" flat; }

for method in fracbits dq; do
    rm -rf one two three four five
    works quantize "$model" "${quick[@]}" --max-size 24K --search $method:epochs=4 -o one
    tr -d ' \n' < one/results.json > flat
    says flat "\"method\":\"$method\""
    says flat '"ok":true'
    bytes=$(number bytes)
    [[ ${bytes%.*} -le 24576 ]] || fail "$method: $bytes bytes"
    [[ ! -e one/$method-widths.npz ]] || fail "$method: a checkpoint was left"

    # the same bytes again; and after a kill in the middle of the training
    long=(--max-size 24K --search $method:epochs=8)
    killed "two/$method-widths.npz" quantize "$model" "${quick[@]}" "${long[@]}" -o two
    works quantize "$model" "${quick[@]}" "${long[@]}" --resume -o two
    works quantize "$model" "${quick[@]}" "${long[@]}" -o three
    cmp -s two/model.onnx three/model.onnx || fail "$method: resumed, another policy"

    # bit operations limit a product of widths
    works quantize "$model" "${quick[@]}" --max-bops 60e6 --search $method:epochs=4 -o four
    tr -d ' \n' < four/results.json > flat
    says flat '"ok":true'

    works quantize "$model" "${quick[@]}" --max-size 24K --search $method:epochs=900 \
        --time-limit 2s -o five
    "$program" quantize "$model" "${quick[@]}" --max-size 1K --search $method -o six > out 2> err
    [[ $? -eq 3 ]] || fail "$method: a limit that cannot be met: not exit 3"
    refuses 2 "has no option 'bits'" quantize "$model" "${quick[@]}" --search $method:bits=3 -o seven
done

# another scheme than uniform has no step and no range: what is left is the repair
works quantize "$model" "${quick[@]}" --max-size 24K --schemes clip --search dq:epochs=1 -o eight
works quantize "$model" "${quick[@]}" --max-size 24K --schemes clip --search fracbits:epochs=1 -o nine

if ((failures)); then
    echo "$failures failures"
    exit 1
fi
echo "fracbits and dq learn, stop and go on"
