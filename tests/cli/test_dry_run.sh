#!/usr/bin/env bash
# --dry-run foretells the bytes and the RAM that the same uniform policy has when it is delivered.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"

figure() { # FILE PART KEY
    tr -d ' \n' < "$1" | sed -E "s/.*\"$2\":\[?\{[^}]*\"$3\":([0-9]+).*/\1/"
}
agrees() { # MODEL OPTION…: nothing is larger than foretold, and little is smaller
    local model=$1 bytes ram
    shift
    "$program" quantize "$model" "$@" --dry-run --json > dry.json 2> error.txt ||
        fail "dry run: $(cat error.txt)"
    works quantize "$model" "$@" --data builtin:glyphs --limit 64 --calib 16 --threads 1 \
        --search uniform --max-size 10M --ptq none -o run
    bytes=$(figure dry.json uniform bytes) ram=$(figure dry.json uniform peak_ram)
    got=$(figure run/results.json quantized bytes)
    # equal tables (zero biases, shifts, LUTs) are stored once
    [[ $got -le $bytes && $got -ge $((bytes - bytes / 50)) ]] ||
        fail "$model $*: $bytes bytes foretold, $got delivered"
    [[ $(figure run/results.json quantized peak_ram) == "$ram" ]] ||
        fail "$model $*: RAM $ram foretold, $(figure run/results.json quantized peak_ram) delivered"
}

works new resnet8 --seed 3 -o resnet8.onnx
works new mobilenet_v2 --width 0.25 --seed 3 -o mobile.onnx
agrees "$root/examples/glyphs.onnx" --weight-bits 4
agrees "$root/examples/glyphs.onnx" --weight-bits 3 --activation-bits 4 --bias-bits 16
agrees resnet8.onnx --weight-bits 2 --activation-bits 4
agrees resnet8.onnx --weight-bits 8 --schemes uniform
agrees resnet8.onnx --weight-bits pot3 --activation-bits 8
agrees mobile.onnx --weight-bits 4 --activation-bits 8
# rows within the limits are marked
works quantize "$root/examples/glyphs.onnx" --weight-bits 2,8 --max-size 20K --dry-run
[[ $(grep -c yes out) == 1 && $(grep -c NO out) == 1 ]] || fail "limits of a dry run: $(cat out)"
works quantize "$root/examples/glyphs.onnx" --weight-bits 2,8 --max-ram 1 --dry-run --json
says err "no uniform policy"
# and what no row is judged by is named
works quantize "$root/examples/glyphs.onnx" --weight-bits 8 --max-size 80K --max-latency 1us --max-drop 0 --dry-run
says err "not judged by --dry-run: --max-latency, --max-drop"
works quantize "$root/examples/glyphs.onnx" --weight-bits 8 --max-size 80K --dry-run
if grep -q judged err; then fail "a dry run's limit is not judged: $(cat err)"; fi
# 8-bit weights need no scratch: the only way to this peak, which no cheaper option leads to
works quantize resnet8.onnx --weight-bits 2,8 --max-ram 32K --max-size 60K --search random --trials 1 \
    --data builtin:glyphs --limit 64 --calib 16 --threads 1 --ptq none -o ram
exit $((failures > 0))
