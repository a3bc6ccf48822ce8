#!/usr/bin/env bash
# nibble quantize --finetune on drawn glyphs: simulation and integer program agree, the same seed gives
# the same bytes, kill -9 and Ctrl-C lose nothing, a resumed run ends like an uninterrupted one.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
job=(quantize "$root/examples/glyphs.onnx" --data builtin:glyphs --limit 256 --calib 64 --threads 1
    --search uniform --weight-bits 2 --activation-bits 2 --max-size 1M --batch 32 --lr 0.003)
field() { sed -n "s/.*\"$2\": \([-0-9.]*\).*/\1/p" "$1/results.json" | tail -1; }

works "${job[@]}" --quiet --finetune 3 -o whole
grep -q '"finetune"' whole/results.json || fail "results.json does not say what fine-tuning did"
[[ $(grep -c '"deployed"' whole/results.json) == 3 ]] || fail "not a line for each of three epochs"
awk -v a="$(field whole agreement)" 'BEGIN { exit !(a >= 99) }' ||
    fail "simulation and integer program agree on $(field whole agreement) % only"
[[ ! -e whole/finetune.npz ]] || fail "a checkpoint is left behind"
works "${job[@]}" --quiet --finetune 3 -o again
cmp -s whole/model.onnx again/model.onnx || fail "the same seed gives other bytes"
works "${job[@]}" --quiet -o plain
cmp -s whole/model.onnx plain/model.onnx && fail "fine-tuning changed nothing"
works eval whole --data builtin:glyphs --limit 64 --quiet
works "${job[@]}" --quiet --finetune 1 --no-distill --emit c -o labels
cc -std=c99 -O1 labels/c/*.c -o selftest && ./selftest > /dev/null || fail "the C's self-test fails"

# ---- limits hold after training, too: no grid that was one is parted ------------------------------
plain=(quantize "$root/examples/glyphs.onnx" --data builtin:glyphs --limit 256 --calib 32 --threads 1 --weight-bits 2
    --ptq none --search uniform --batch 32 --quiet)
works "${plain[@]}" --max-size 1M -o untrained
size() { tr -d ' \n' < "$1/results.json" | sed -E "s/.*\"quantized\":\{[^}]*\"$2\":([0-9]+).*/\1/"; }
works "${plain[@]}" --finetune 2 --max-size "$(size untrained bytes)" --max-ram "$(size untrained peak_ram)" --emit c -o fits
[[ $(size fits bytes) == "$(size untrained bytes)" ]] || fail "training takes bytes: $(size fits bytes)"
grep -q "MODEL_ARENA_BYTES $(size untrained peak_ram)$" fits/c/model.h || fail "training takes RAM"
says fits/results.json '"best_epoch": ' # it was trained
[[ $(sed -n 's/.*"best_epoch": \([0-9]*\).*/\1/p' fits/results.json) != 0 ]] || fail "nothing was trained"

# ---- kill -9, Ctrl-C ------------------------------------------------------------------------------
killed killed/finetune.npz "${job[@]}" --quiet --finetune 3 -o killed
works "${job[@]}" --quiet --finetune 3 --resume -o killed
cmp -s whole/model.onnx killed/model.onnx || fail "the resumed run ends with other bytes"

interrupted 'epoch 1 of 400' "${job[@]}" --finetune 400 -o stopped
[[ -s stopped/model.onnx && -s stopped/results.json ]] || fail "Ctrl-C: nothing was delivered"
cp -r stopped refused
refuses 2 "lr" "${job[@]}" --quiet --finetune 400 --lr 0.02 --resume -o refused
cmp -s stopped/model.onnx refused/model.onnx || fail "a refused --resume replaces what there was"
cmp -s stopped/finetune.npz refused/finetune.npz || fail "a refused --resume replaces the checkpoint"

refuses 2 "lr" quantize "$root/examples/glyphs.onnx" --lr 0 -o x

# ---- options of a training that there is not -------------------------------------------------------
dry=(quantize "$root/examples/glyphs.onnx" --dry-run)
works "${dry[@]}" --lr 0.1 --start float --optimizer adam --schedule step --warmup 1 --weight-decay 0 --clip 1 \
    --ema 0.9 --dampen 0.1 --augment crop
says err "--lr, --start, --optimizer, --schedule, --warmup, --weight-decay, --clip, --ema, --dampen, --augment" \
    "options without --finetune"
works "${dry[@]}" --c-name left
says err "for C alone, which --emit c asks for: --c-name"
works "${dry[@]}" --c-name left --emit c
grep -q "for C alone" err && fail "--c-name is for nothing: $(cat err)"
works "${dry[@]}" --finetune 2 --optimizer adam
grep -q "for fine-tuning alone" err && fail "--optimizer is for nothing: $(cat err)"
works "${dry[@]}" --search autoqnn --augment crop # which trains with it
grep -q "for fine-tuning alone" err && fail "--augment is for nothing: $(cat err)"
works "${dry[@]}"
grep -q "for fine-tuning alone" err && fail "no option is for nothing: $(cat err)"

if ((failures)); then
    echo "$failures failures"
    exit 1
fi
echo "fine-tuning keeps what it promises"
