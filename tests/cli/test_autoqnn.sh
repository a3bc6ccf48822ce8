#!/usr/bin/env bash
# --search autoqnn: schemes and widths learned, limits kept, interrupted and gone on with.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
model=$root/examples/glyphs.onnx
quick=(--threads 1 --data builtin:glyphs --limit 320 --calib 32 --batch 32 --quiet --max-size 24K
    --schemes uniform,pot,ternary --weight-bits 2,4 --activation-bits 4,8)
search=autoqnn:scheme_epochs=2,width_epochs=2

works quantize "$model" "${quick[@]}" --search $search -o one
tr -d ' \n' < one/results.json > flat
says flat '"method":"autoqnn"'
says flat '"ok":true'
bytes=$(sed -E 's/.*"quantized":\{[^}]*"bytes":([0-9.]+).*/\1/' flat)
[[ ${bytes%.*} -le 24576 ]] || fail "$bytes bytes"
[[ ! -e one/autoqnn-schemes.npz && ! -e one/autoqnn-widths.npz ]] || fail "a checkpoint was left"

# the same bytes again; and after a kill in the middle of the training
works quantize "$model" "${quick[@]}" --search $search -o two
cmp -s one/model.onnx two/model.onnx || fail "two runs, two policies"
killed three/autoqnn-widths.npz \
    quantize "$model" "${quick[@]}" --search autoqnn:scheme_epochs=2,width_epochs=10 -o three
works quantize "$model" "${quick[@]}" --search autoqnn:scheme_epochs=2,width_epochs=10 --resume -o three
works quantize "$model" "${quick[@]}" --search autoqnn:scheme_epochs=2,width_epochs=10 -o four
cmp -s three/model.onnx four/model.onnx || fail "resumed, another policy"

# fine-tuning from the weights that were trained, also those of a run before, or from the float ones
tuned=(--search $search --finetune 1)
for start in search rounded float random; do
    works quantize "$model" "${quick[@]}" "${tuned[@]}" --start $start -o $start
    grep -q "\"from\": \"$start\"" $start/results.json || fail "$start: another start"
done
works quantize "$model" "${quick[@]}" "${tuned[@]}" -o auto
trained() { sed -n '/"finetune"/,/statistics_restated/p' "$1/results.json" | grep '"loss"'; } # by epoch
[[ $(trained auto) == "$(trained search)" || $(trained auto) == "$(trained rounded)" ]] ||
    fail "auto starts from something else"
works quantize "$model" "${quick[@]}" "${tuned[@]}" --start search -o one --resume
[[ -n $(trained search) && $(trained one) == "$(trained search)" ]] ||
    fail "what was kept of the search starts another fine-tuning"
[[ $(trained search) != "$(trained float)" ]] || fail "search and float weights are trained alike"
works quantize "$model" "${quick[@]}" --search sensitivity:refine=0 --finetune 1 -o plain
grep -q '"from": "\(float\|rounded\)"' plain/results.json || fail "sensitivity trains no weights"
refuses 2 "start" quantize "$model" "${quick[@]}" --start nowhere -o seven

works quantize "$model" "${quick[@]}" --search autoqnn:scheme_epochs=1,width_epochs=0,scope=model -o five
works quantize "$model" "${quick[@]}" --search autoqnn:scheme_epochs=200,width_epochs=200 \
    --time-limit 4s -o six
refuses 2 "has no option 'epochs'" quantize "$model" "${quick[@]}" --search autoqnn:epochs=3 -o seven
few=(--threads 1 --data builtin:glyphs --limit 200 --calib 32 --quiet)
"$program" quantize "$model" "${few[@]}" --max-size 1K --search autoqnn -o eight \
    > out 2> err
[[ $? -eq 3 ]] || fail "a limit that cannot be met: not exit 3"

if ((failures)); then
    echo "$failures failures"
    exit 1
fi
echo "autoqnn learns, stops and goes on"
