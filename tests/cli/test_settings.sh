#!/usr/bin/env bash
# --settings: how a network is calibrated, searched before its policies; kept, gone on with, and learned
# from by a later search.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
model=$root/examples/glyphs.onnx
quick=(--threads 1 --data builtin:glyphs --limit 60 --quiet --ptq none --weight-bits 8
    --activation-bits 8 --max-size 60K)

# number FILE KEY: of settings_search
number() { tr -d ' \n' < "$1" | sed -E "s/.*\"settings_search\":\{[^}]*\"$2\":([0-9.e+-]+).*/\1/"; }

# {1, 60 images} × {uniform, fixed} × {minmax, kl, mse} × {tensor, channel}; first and last have 8 bits
works quantize "$model" "${quick[@]}" --settings grid -o grid
says grid/results.json '"settings_search"'
[[ $(number grid/results.json trials) == 24 ]] || fail "not 24 configurations"
range=$(tr -d ' \n' < grid/results.json | sed -E 's/.*"chosen":\{[^}]*"range":"([a-z]+)".*/\1/')
tr -d ' \n' < grid/results.json | sed -E 's/.*"settings":\{//' > flat
says flat "\"range\":\"$range\""
best=$(number grid/results.json loss)

for method in quantune random genetic; do
    works quantize "$model" "${quick[@]}" --settings $method --trials 6 -o $method
    [[ $(number $method/results.json trials) == 6 ]] || fail "$method: not 6 trials"
    awk "BEGIN {exit !($(number $method/results.json loss) >= $best)}" || fail "$method beats the grid"
done

# a trial that is known is not made again, and the result is the same
works quantize "$model" "${quick[@]}" --settings grid --trials 5 -o part
works quantize "$model" "${quick[@]}" --settings grid --resume -o part
cmp -s part/model.onnx grid/model.onnx || fail "resumed, another network"
"$program" quantize "$model" "${quick[@]}" --settings grid -o killed &
job=$!
sleep 1
kill -9 $job 2> /dev/null
wait $job 2> /dev/null
works quantize "$model" "${quick[@]}" --settings grid --resume -o killed
cmp -s killed/model.onnx grid/model.onnx || fail "killed and resumed, another network"

# Ctrl-C: the best so far is delivered, and a resumed run ends as one that was not interrupted
interrupted "first and last" quantize "$model" "${quick[@]:0:6}" --verbose "${quick[@]:7}" \
    --settings grid -o stopped
[[ -s stopped/model.onnx ]] || fail "Ctrl-C: no model"
works quantize "$model" "${quick[@]}" --settings grid --resume -o stopped
cmp -s stopped/model.onnx grid/model.onnx || fail "Ctrl-C and resumed, another network"

# another seed's study teaches: all that is tried first is predicted
mkdir taught && cp grid/study.db taught/
works quantize "$model" "${quick[@]}" --seed 5 --settings quantune:round=3 --trials 3 -o taught
works quantize "$model" "${quick[@]}" --settings quantune --time-limit 2s -o timed

"$program" quantize "$model" "${quick[@]}" --max-size 1K --settings grid --trials 2 -o none > out 2> err
[[ $? -eq 3 ]] || fail "a limit that cannot be met: not exit 3"
refuses 2 "grid, random, genetic or quantune" quantize "$model" "${quick[@]}" --settings hawq -o bad
refuses 2 "searched by grid, random, genetic or quantune, not by 'nothing'" quantize "$model" "${quick[@]}" --settings nothing -o bad
refuses 2 "a policy that is given" quantize "$model" "${quick[@]}" --settings grid \
    --policy grid/policy.json -o bad

# ---- what else a score depends on: kept trials are those of the same problem ---------------------------
kept() { ! grep -q "first and last" err; } # whether the last run scored no settings anew
verbose=("${quick[@]:0:6}" --verbose "${quick[@]:7:2}" --search uniform --settings grid --trials 1)

# 22K are too few in int4, the least there is before opset 25
onnx=(--for onnx --weight-bits "2,4,8" --activation-bits 8 --max-size 22K -o onnx)
"$program" quantize "$model" "${verbose[@]}" "${onnx[@]}" > out 2> err
[[ $? -eq 3 ]] || fail "int4 meets the limit"
works quantize "$model" "${verbose[@]}" "${onnx[@]}" --opset 25 --resume
[[ $(number onnx/results.json loss) == [0-9]* ]] || fail "in int2 the scores of int4 were kept"

fixed=("${verbose[@]}" --weight-bits 8 --activation-bits 8)
costs() { # SECONDS of a convolution
    printf 'step,shape,weight_bits,input_bits,seconds\nconv,16x16x16>16:3x3/1,8,8,%s\n' "$1"
    printf '%s,16x16x16,,8,1e-5\n' add avgpool copy lut maxpool mul
}
costs 1e-4 > costs.csv
works quantize "$model" "${fixed[@]}" --cost-table costs.csv --max-latency 1 -o costs
works quantize "$model" "${fixed[@]}" --cost-table costs.csv --max-latency 1 --resume -o costs
kept || fail "the same cost table, and settings are scored again"
costs 2e-4 > costs.csv
works quantize "$model" "${fixed[@]}" --cost-table costs.csv --max-latency 1 --resume -o costs
kept && fail "scores of another cost table were kept"

images() { # FIRST: 60 records of a label and 3,072 bytes of the model file
    local i
    for ((i = 0; i < 60; i++)); do
        printf '\1'
        tail -c +$(($1 + i * 3000)) "$model" | head -c 3072
    done
}
mkdir data
images 1 > data/test_batch.bin
images 1 > data/data_batch_1.bin
fixed=("${fixed[@]/builtin:glyphs/data}")
works quantize "$model" "${fixed[@]}" -o images
works quantize "$model" "${fixed[@]}" --resume -o images
kept || fail "the same data, and settings are scored again"
images 2 > data/data_batch_1.bin
works quantize "$model" "${fixed[@]}" --resume -o images
kept && fail "scores of other data were kept"

if ((failures)); then
    echo "$failures failures"
    exit 1
fi
echo "settings are searched, kept, and learned from"
