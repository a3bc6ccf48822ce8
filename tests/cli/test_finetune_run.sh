#!/usr/bin/env bash
# nibble finetune DIR on drawn glyphs: it goes on from trained values or from the float model, never
# makes a run worse, replaces all files together, and can be interrupted anywhere.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
cp "$root/examples/glyphs.onnx" float.onnx
job=(quantize float.onnx --data builtin:glyphs --limit 256 --calib 64 --threads 1 --search uniform
    --weight-bits 2 --activation-bits 2 --max-size 1M --batch 32 --quiet)
more=(--threads 1 --lr 0.003)
value() { sed -n "s/.*\"$2\": \"\{0,1\}\([-0-9a-z.]*\).*/\1/p" "$1/results.json" | tail -1; }
same() { cmp -s "$1" "$2" || fail "$3: $1 and $2 differ"; }

# ---- from the float model, then from what that left ----------------------------------------------
works "${job[@]}" --emit c -o plain
[[ ! -e plain/tuned.npz ]] || fail "trained values without training"
cp -r plain once
echo mine | tee once/c/notes.txt > once/c/.hidden # files of the user's own
works finetune once --epochs 2 "${more[@]}" --quiet
[[ $(value once from) == float ]] || fail "a run that was never fine-tuned starts from $(value once from)"
grep -q '"why"' once/results.json || fail "fine-tuning has lost why this policy"
[[ ! -e once/finetune.npz ]] || fail "the checkpoint of a finished fine-tuning is left behind"
[[ -s once/tuned.npz ]] || fail "no trained values are kept"
cmp -s plain/model.onnx once/model.onnx && fail "fine-tuning changed nothing"
cmp -s plain/c/model_weights.h once/c/model_weights.h && fail "the C was not written anew"
[[ $(cat once/c/notes.txt once/c/.hidden) == $'mine\nmine' ]] || fail "the user's files beside the C are lost"
cc -std=c99 -O1 once/c/*.c -o selftest && ./selftest > /dev/null || fail "the C's self-test fails"
[[ ! -e once/.next && ! -e once/.done ]] || fail "a stage is left behind"
same plain/study.db once/study.db "the study is left alone"
works eval once --data builtin:glyphs --limit 64 --quiet
cp -r once twice
works finetune twice --epochs 3 "${more[@]}" --seed 4 --json
[[ $(value twice from) == tuned ]] || fail "the second fine-tuning starts from $(value twice from)"
says out '"before":'
# as good on validation images as it was, at least
awk -v a="$(value twice before)" -v b="$(sed -n 's/.*"deployed": \([0-9.]*\).*/\1/p' once/results.json |
    sort -n | tail -1)" 'BEGIN { exit !(a == b) }' || fail "it does not start where the first one ended"

# a rate that only does harm: what there was is delivered again, byte for byte
cp -r once hurt
works finetune hurt --epochs 1 --threads 1 --lr 0.1
grep -q "no epoch is better" err || fail "a useless fine-tuning is not told: $(cat err)"
same once/model.onnx hurt/model.onnx "a useless fine-tuning"
same once/tuned.npz hurt/tuned.npz "a useless fine-tuning"

# the same in one go, by quantize: the policy without fine-tuning is a candidate
works "${job[@]}" --finetune 1 --lr 0.1 -o useless
same plain/model.onnx useless/model.onnx "quantize with a useless fine-tuning"
# … and what the search found is delivered where fine-tuning diverges
refuses 1 "holds the policy without it" "${job[@]}" --finetune 1 --lr 1000 -o wild
same plain/model.onnx wild/model.onnx "quantize with a fine-tuning that diverges"
# … or cannot go on
mkdir unread && echo none > unread/finetune.npz
refuses 1 "'unread' holds the policy without it" "${job[@]}" --finetune 1 --resume -o unread
same plain/model.onnx unread/model.onnx "quantize with a checkpoint that cannot be read"
same plain/policy.json unread/policy.json "quantize with a checkpoint that cannot be read"
[[ $(< unread/finetune.npz) == none ]] || fail "a checkpoint of something else is gone"
# options that cannot train are found before the search
for option in "--warmup 1" "--warmup 0.99" "--augment crop,mixpu"; do
    # shellcheck disable=SC2086 # an option and its value
    refuses 2 "fine-tuning: " "${job[@]}" --finetune 1 $option -o early
    [[ ! -e early/policy.json ]] || fail "$option: found after the search"
done

# options of the descent, random weights
works finetune once --epochs 1 --threads 1 --quiet --optimizer adam --schedule constant --ema 0.9 \
    --augment none --clip 1 --warmup 0.5 --weight-decay 0 --no-distill --batch 16
cp -r plain fresh
works finetune fresh --epochs 2 --threads 1 --retrain --quiet
[[ $(value fresh from) == random ]] || fail "--retrain starts from $(value fresh from)"
cp -r plain fresh2
works finetune fresh2 --epochs 2 --threads 1 --retrain --quiet
same fresh/model.onnx fresh2/model.onnx "--retrain twice by the same seed"
works finetune fresh --epochs 1 "${more[@]}" --quiet
[[ $(value fresh from) == tuned ]] || fail "after --retrain: from $(value fresh from)"

# epochs that fit the training images alone are told, others are not
for rate in 0.003 0.02; do
    works quantize float.onnx --data builtin:glyphs --limit 64 --calib 32 --threads 1 --search uniform --weight-bits 2 \
        --activation-bits 2 --max-size 1M --batch 16 --finetune 8 --lr $rate --augment none --seed 1 -o "fits$rate"
    # of the lines "epoch 3 of 8: loss 1.25, validation top-1 76.56 deployed, …": the best one, early, and above the last loss?
    want=$(sed -n 's/.*: epoch \([0-9]*\) of 8: loss \([0-9.]*\), validation top-1 \([0-9.]*\) .*/\1 \2 \3/p' err |
        awk '$3 > top { top = $3; best = $1; loss = $2 } END { print (2 * best <= 8 && $2 < loss) ? best : "none" }')
    told=$(sed -n 's/.*since epoch \([0-9]*\) the loss of the training images falls.*/\1/p' err)
    [[ $want == "${told:-none}" ]] || fail "rate $rate: from epoch $want on the training images alone, told: ${told:-none}"
done

# ---- kill -9, Ctrl-C -----------------------------------------------------------------------------
cp -r hurt killed && cp -r hurt stopped && cp -r hurt whole
long=(--epochs 4 "${more[@]}")
works finetune whole "${long[@]}" --quiet
killed killed/finetune.npz finetune killed "${long[@]}" --quiet
same hurt/model.onnx killed/model.onnx "kill -9"
[[ ! -e killed/finetune.npz ]] ||
    refuses 2 "its validation seed is" finetune killed "${long[@]}" --quiet --resume --val-seed 9
works finetune killed "${long[@]}" --quiet --resume
same whole/model.onnx killed/model.onnx "resumed after kill -9"
same whole/tuned.npz killed/tuned.npz "resumed after kill -9"

for epoch in 1 3; do # early, and when its best epoch may have been delivered
    rm -r stopped && cp -r hurt stopped
    interrupted "epoch $epoch of 4" finetune stopped "${long[@]}"
    works finetune stopped "${long[@]}" --quiet --resume
    same whole/model.onnx stopped/model.onnx "resumed after Ctrl-C in epoch $epoch"
    same whole/tuned.npz stopped/tuned.npz "resumed after Ctrl-C in epoch $epoch"
done

# killed while the new files were being moved into place: the next call finishes that
cp -r hurt moved
mkdir moved/.done
for f in model.onnx tuned.npz results.json policy.json c; do cp -r "whole/$f" moved/.done/; done
rm -r moved/c && mv moved/.done/model.onnx moved/model.onnx
mkdir moved/.next && echo half > moved/.next/model.onnx
refuses 2 "warm-up: 5 epochs of 1" finetune moved --epochs 1 --threads 1 --warmup 5 --quiet
same whole/tuned.npz moved/tuned.npz "half moved"
[[ -s moved/c/model.c && ! -e moved/.done && ! -e moved/.next ]] || fail "a half moved run is not finished"

# ---- bad input -----------------------------------------------------------------------------------
cp -r hurt bad
refuses 2 "--epochs" finetune bad
refuses 1 "is not a folder that quantize wrote" finetune nowhere --epochs 1
mkdir empty
refuses 1 "holds no finished run" finetune empty --epochs 1
refuses 2 "is not one of cosine|step|constant" finetune bad --epochs 1 --schedule linear
refuses 2 "'blur'" finetune bad --epochs 1 --augment blur
# another model, a model that has gone
"$program" new resnet8 --width 0.5 -o other.onnx > /dev/null
refuses 2 "is not the float model that the run" finetune bad --epochs 1 --model other.onnx
mv float.onnx elsewhere.onnx
refuses 1 "--model FILE says where it is now" finetune bad --epochs 1
works finetune bad --epochs 1 "${more[@]}" --quiet --model elsewhere.onnx
works finetune bad --epochs 1 "${more[@]}" --quiet # which it remembers
mv elsewhere.onnx float.onnx
rm -r bad && cp -r hurt bad
# trained values and checkpoints of another policy, damaged ones
works quantize float.onnx --data builtin:glyphs --limit 256 --calib 64 --threads 1 --search uniform \
    --weight-bits 1 --activation-bits 2 --max-size 1M --batch 32 --quiet --ptq none --finetune 2 -o wide
cp wide/tuned.npz bad/tuned.npz
refuses 2 "belongs to another policy" finetune bad --epochs 1 "${more[@]}" --quiet
head -c 3000 hurt/tuned.npz > bad/tuned.npz
refuses 1 "tuned.npz" finetune bad --epochs 1 "${more[@]}" --quiet
echo '{}' > bad/results.json
refuses 1 "written by another version" finetune bad --epochs 1
# a rate that diverges names where and leaves the run
cp -r hurt far
refuses 1 "(first tensor: '" finetune far --epochs 4 --threads 1 --lr 1e30 --quiet
says err "'far' stays as it was"
same hurt/model.onnx far/model.onnx "a rate that diverges"
# a disk that is full while the new files are written
cp -r hurt full
(
    trap '' XFSZ
    ulimit -f 8 # blocks of 1 KiB
    "$program" finetune full --epochs 1 "${more[@]}" > out 2> err
    [[ $? == 1 ]]
) || fail "a full disk: $(head -c 300 err)"
same hurt/model.onnx full/model.onnx "a full disk"
same hurt/results.json full/results.json "a full disk"
[[ ! -e full/.next && ! -e full/.done ]] || fail "a full disk leaves a stage behind"
works finetune full --epochs 1 "${more[@]}" --quiet

if ((failures)); then
    echo "$failures failures"
    exit 1
fi
echo "fine-tuning goes on where it ended"
