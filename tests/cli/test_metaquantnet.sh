#!/usr/bin/env bash
# MetaQuantNet from end to end on the glyphs: trained once, kept, used again for another limit; the
# same bytes after kill -9 and --resume; meta-train's file serves quantize, at any number of threads.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
job=("$root/examples/glyphs.onnx" --data builtin:glyphs --limit 400 --calib 24 --batch 32
    --weight-bits 2,4 --threads 1)
search="metaquantnet:epochs=2,hidden=4,population=8,parents=3,iterations=2"

policy() { sed -n '/"policy"/,$p' "$1/policy.json"; }
same() { # A B: the same policy and model
    cmp -s "$1/model.onnx" "$2/model.onnx" || fail "model.onnx differs: $1 $2"
    policy "$1" | cmp -s - <(policy "$2") || fail "policy.json differs: $1 $2"
}

# ---- trained once, kept ----------------------------------------------------------------------------
works quantize "${job[@]}" --search "$search" --avg-bits 2.8 -o one
[[ -s one/meta.onnx && ! -e one/meta.npz ]] || fail "meta.onnx is not kept"
grep -q '"by_width"' one/results.json || fail "results.json tells no loss by width"
grep -q '"method": "metaquantnet"' one/results.json || fail "the method is not in results.json"
cp one/meta.onnx kept.onnx
works quantize "${job[@]}" --search "$search" --avg-bits 3.2 -o one
cmp -s one/meta.onnx kept.onnx || fail "another limit trained it again"
grep -q '"by_width"' one/results.json && fail "another limit trained it again"
works quantize "${job[@]}" --search "$search" --avg-bits 2.8 -o one

# ---- kill -9 in the training, then --resume ----------------------------------------------------------
killed killed/meta.npz quantize "${job[@]}" --quiet --search "$search" --avg-bits 2.8 -o killed
works quantize "${job[@]}" --search "$search" --avg-bits 2.8 --resume -o killed
cmp -s killed/meta.onnx kept.onnx || fail "a resumed training ends with other values"
same one killed

# ---- ahead of time -----------------------------------------------------------------------------------
works meta-train "${job[@]}" --epochs 2 --hidden 4 -o meta.onnx --json
cmp -s meta.onnx kept.onnx || fail "meta-train and --search metaquantnet train two things"
given="$search,meta=meta.onnx"
works quantize "${job[@]}" --search "$given" --avg-bits 2.8 -o given
grep -q "generated_loss" given/results.json || fail "learned rounding was not tried on the float weights"
same one given
works quantize "${job[@]}" --search "$given,weights=generated" --avg-bits 2.8 --threads 2 -o threads
same one threads

# ---- what it is compared with, and a given policy ---------------------------------------------------
for by in random haq; do
    refuses 2 "metaquantnet: by=$by has no option 'population'" quantize "${job[@]}" \
        --search "$given,by=$by" --avg-bits 2.8 -o no
    works quantize "${job[@]}" --search "metaquantnet:epochs=2,hidden=4,meta=meta.onnx,by=$by" \
        --trials 4 --avg-bits 2.8 -o "$by"
    grep -q '"by_width"' "$by/results.json" && fail "$by: trained again"
done
works quantize "${job[@]}" --policy one/policy.json --search "$given" --ptq none -o policy
works quantize "${job[@]}" --search "$given" --ptq none --avg-bits 2.8 -o plain
loss() { sed -n 's/^  "loss": \([0-9.e-]*\),*$/\1/p' "$1/results.json"; }
[[ -n $(loss policy) && $(loss policy) == "$(loss plain)" ]] ||
    fail "a given policy scores $(loss policy), the search says $(loss plain)"
"$program" quantize "${job[@]}" --policy one/policy.json --search random -o no 2> error.txt
[[ $? == 2 ]] || fail "--policy with --search random is no wrong usage"

# ---- fine-tuning from all ------------------------------------------------------------------------
for start in search rounded float random; do
    works quantize "${job[@]}" --search "$given" --start $start --avg-bits 2.8 --finetune 1 -o $start
    grep -q '"epochs": 1' $start/results.json || fail "$start: not fine-tuned"
    grep -q "\"from\": \"$start\"" $start/results.json || fail "$start: started from something else"
done
trained() { sed -n '/"finetune"/,/statistics_restated/p' "$1/results.json" | grep '"loss"'; } # by epoch
for start in float random; do
    [[ $(sed -n 's/.*"before": //p' search/results.json) == "$(sed -n 's/.*"before": //p' $start/results.json)" ]] ||
        fail "$start: another start, another merit of what there was"
    [[ $(trained search) != "$(trained $start)" ]] || fail "search and $start are trained alike"
done

# ---- controls and contexts -----------------------------------------------------------------------------
for key in weights=shared weights=tables context=3 context=all; do
    works quantize "${job[@]}" --search "$search,epochs=1,$key" --avg-bits 2.8 \
        --activation-bits 4,8 -o "$key"
done

# ---- several schemes -----------------------------------------------------------------------------------
# The network kept is of other choices: trained anew. The policy is the same when read again, at any
# number of threads; weights and activations by schemes are scored and fine-tuned.
mixed=(--weight-bits ternary2,pot3,2,4 --activation-bits pact4,unsigned4,8)
cp -r one mixed
works quantize "${job[@]}" "${mixed[@]}" --search "$search" --avg-bits 3 --start search \
    --finetune 1 -o mixed
says err "trained anew: 'mixed/meta.onnx' was trained for something else: its weight_bits is 2,4, here it is 2,ternary2,pot3,4"
grep -qE '"scheme": "(ternary|pot)"' mixed/policy.json || fail "no weights by a scheme"
tr -d ' \n' < mixed/results.json > flat
grep -qE '"by_width":\{[^}]*"pot3":[0-9.]+' flat || fail "results.json tells no loss by choice"
given_mixed="$search,meta=mixed/meta.onnx"
for threads in 1 2; do
    works quantize "${job[@]}" "${mixed[@]}" --threads $threads --search "$given_mixed" --ptq none \
        --avg-bits 3 -o mixed$threads
done
same mixed1 mixed2
works quantize "${job[@]}" "${mixed[@]}" --policy mixed1/policy.json --search "$given_mixed" \
    --ptq none -o mixed3
grep -q '"from": "search"' mixed/results.json || fail "mixed: started from something else"
[[ -n $(loss mixed3) && $(loss mixed3) == "$(loss mixed1)" ]] ||
    fail "a given policy of schemes scores $(loss mixed3), the search says $(loss mixed1)"
for key in weights=tables context=3; do
    works quantize "${job[@]}" "${mixed[@]}" --search "$search,epochs=1,$key" --avg-bits 3 -o "m$key"
done
works quantize "${job[@]}" --weight-bits 2,4 --rule 'conv1:pot3,' --search "$search,epochs=1" \
    --avg-bits 3 -o ruled

# ---- what is wrong -------------------------------------------------------------------------------------
refuses 2 "its weight_bits is 2,4, here it is 2,3,4" quantize "${job[@]}" --weight-bits 2,3,4 \
    --search "$given" --avg-bits 3 -o wrong
refuses 2 "its weight_bits is 2,4, here it is pot2,2,4" quantize "${job[@]}" --weight-bits 2,pot2,4 \
    --search "$given" --avg-bits 3 -o wrong
refuses 2 "its weights is generated, here it is shared" quantize "${job[@]}" --search "$given,weights=shared" \
    --avg-bits 3 -o wrong
refuses 1 "cannot open" quantize "${job[@]}" --search "$search,meta=none.onnx" --avg-bits 3 -o wrong
refuses 2 "was trained for something else" quantize "${job[@]}" \
    --search "$search,meta=$root/examples/glyphs.onnx" --avg-bits 3 -o wrong
refuses 3 "cannot be met" quantize "${job[@]}" --search "$given" --avg-bits 1.5 -o wrong
refuses 3 "cannot be met" quantize "${job[@]}" --search "$search" --avg-bits 1.5 -o untrained
[[ -e untrained/meta.onnx ]] && fail "it was trained for a limit that cannot be met"
exit $((failures > 0))
