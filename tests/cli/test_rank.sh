#!/usr/bin/env bash
# --rank learned: candidates are rounded as what is delivered. The same scores with and without the cache
# of prefixes, at any number of threads, and after an interruption.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
model=$root/examples/glyphs.onnx
job=(quantize "$model" --data builtin:glyphs --limit 96 --calib 24 --avg-bits 2.5 --weight-bits 2,4
    --rank learned)
search=(--search sensitivity:refine=6)
ranked() { sed -n 's/.*"ranked_loss": \([^,]*\).*/\1/p' "$1/results.json"; }
same() {
    for file in model.onnx policy.json; do
        cmp -s "$1/$file" "$2/$file" || fail "$file differs: $1 $2"
    done
    [[ $(ranked "$1") == "$(ranked "$2")" ]] || fail "scores differ: $1 $2"
}

works "${job[@]}" "${search[@]}" --quiet -o one --threads 1
works "${job[@]}" "${search[@]}" --quiet -o two --threads 2
same one two
[[ -n $(ranked one) ]] || fail "results.json has no ranked_loss"

# alone, nothing of it comes from a cache
works "${job[@]}" --quiet --policy one/policy.json -o given
same one given

killed stopped/policy.json "${job[@]}" "${search[@]}" --quiet -o stopped --threads 1
works "${job[@]}" "${search[@]}" --quiet -o stopped --resume
same one stopped

# every size that a search by drop tries is ranked so, not only the first
drop=(quantize "$model" --data builtin:glyphs --limit 96 --calib 24 --weight-bits 2,4 --rank learned --quiet)
works "${drop[@]}" --max-drop 60 -o drop
works "${drop[@]}" --max-drop 60 --policy drop/policy.json -o given
[[ $(ranked drop) == "$(ranked given)" ]] ||
    fail "ranked losses differ: $(ranked drop) by a search, $(ranked given) of its policy"

# another score than that of the nearest levels, and kept apart from it in the study
works "${job[@]}" "${search[@]}" --quiet --rank nearest -o one --resume
[[ -z $(ranked one) ]] || fail "ranked_loss without --rank learned"

refuses 2 "rank: 'best' is not one of" "${job[@]}" --rank best -o bad
refuses 2 "--rank learned, but the chosen policy's rounding is not learned" "${job[@]}" --ptq none -o bad
refuses 2 "--rank learned, but 'metaquantnet' scores weights of its own" "${job[@]}" \
    --search metaquantnet -o bad

if ((failures)); then
    echo "$failures failures"
    exit 1
fi
echo "candidates are ranked with learned rounding: $(ranked two)"
