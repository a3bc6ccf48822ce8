#!/usr/bin/env bash
# nibble new and nibble train on drawn glyphs: kill -9 and Ctrl-C lose nothing, a resumed run writes
# the bytes of one that was not interrupted, and wrong wishes are refused by name.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"

run 0 new resnet8 --width 0.5 --seed 3 -o net.onnx --json
says out '"parameters":19954' "new"
run 0 new resnet8 --width 0.5 --seed 3 -o again.onnx
cmp -s net.onnx again.onnx || fail "two networks of one seed differ"
run 0 new resnet8 --width 0.5 --classes 5 -o five.onnx
run 0 new autoencoder --input 12 --width 0.0625 -o auto.onnx
run 1 new resnet8 -o missing/net.onnx
says err missing "new into a folder that is not there"

data=(--data builtin:glyphs --limit 96 --threads 1 --seed 5)
common=("${data[@]}" --batch 16 --lr 0.05 --ema 0.9 --augment crop,mixup)

# an uninterrupted run, with a line per epoch and a result
run 0 train net.onnx "${common[@]}" --epochs 4 -o whole.onnx --json
for key in top1 epochs images_per_second; do says out "\"$key\":" "train --json"; done
says err "epoch 4 of 4: loss" "train"
[[ ! -e whole.onnx.checkpoint.npz ]] || fail "a checkpoint is left behind"
run 0 eval whole.onnx "${data[@]}" --json

run 0 train net.onnx "${data[@]}" --batch 16 --epochs 1 --optimizer adam --momentum 0.5 -o adam.onnx
says err "--momentum is for sgd alone" "a momentum of adam"
run 0 train net.onnx "${data[@]}" --batch 16 --epochs 1 --optimizer adam -o adam.onnx
grep -q -e --momentum err && fail "no momentum is given: $(cat err)"

# without labels, outputs that are no classes are judged by their squared error, here as there
number() { printf "%0$(($2 * 2))x" "$1" | fold -w 2 | tac | tr -d '\n' | sed 's/../\\x&/g'; } # VALUE BYTES
{
    printf "\223NUMPY\001\000v\000%-117s\n" "{'descr': '<f4', 'fortran_order': False, 'shape': (40, 12), }"
    for ((i = 0; i < 480; i++)); do printf -v byte '\\x%02x' $((i * 37 % 128)) && printf "%b" "\\0\\0$byte\\x3f"; done
} > x.npy
crc=$(gzip -c x.npy | tail -c 8 | head -c 4 | od -An -v -tx1 | sed 's/ /\\x/g') # a zip with one stored file
size=$(number "$(wc -c < x.npy)" 4)
entry="\\x14\\0\\0\\0\\0\\0\\0\\0\\x21\\0$crc$size$size\\x05\\0\\0\\0"
{
    printf "%b" "PK\\x03\\x04${entry}x.npy"
    cat x.npy
    printf "%b" "PK\\x01\\x02\\x14\\0$entry$(number 0 14)x.npy"
    printf "%b" "PK\\x05\\x06$(number 0 4)\\x01\\0\\x01\\0$(number 51 4)$(number $(($(wc -c < x.npy) + 35)) 4)\\0\\0"
} > x.npz
run 0 quantize auto.onnx --data x.npz --avg-bits 8 --threads 1 --quiet -o regression
says regression/results.json '"metric": "mse"'
run 0 eval regression --data x.npz --threads 1 --json
says out '"metric":"mse"' "eval"

# killed as soon as there is a checkpoint, then finished
killed killed.onnx.checkpoint.npz train net.onnx "${common[@]}" --epochs 4 -o killed.onnx
if [[ -e killed.onnx.checkpoint.npz ]]; then
    run 2 train net.onnx "${common[@]}" --epochs 4 --weight-decay 0.1 -o killed.onnx --resume
    says err "its weight decay is 0.0005, here it is 0.1" "other options"
    run 2 train net.onnx "${common[@]}" --epochs 4 --init -o killed.onnx --resume
    says err "its model is" "another model"
    run 2 train net.onnx "${common[@]}" --epochs 4 --val-seed 9 -o killed.onnx --resume
    says err "its validation seed is 5, here it is 9" "other images to validate"
    run 0 train net.onnx "${common[@]}" --epochs 4 -o killed.onnx --resume
    says err "going on from" "--resume"
fi
cmp -s whole.onnx killed.onnx || fail "kill -9 and --resume changed the result"

# Ctrl-C keeps the best so far; --resume finishes
"$program" train net.onnx "${common[@]}" --epochs 4 -o stopped.onnx --json > out 2> err &
pid=$!
wait_for stopped.onnx "$pid"
kill -INT $pid 2> /dev/null
wait $pid || fail "Ctrl-C after an epoch: exit status $?, want 0 ($(head -c 300 err))"
says out '"top1":' "Ctrl-C"
run 0 eval stopped.onnx "${data[@]}"
run 0 train net.onnx "${common[@]}" --epochs 4 -o stopped.onnx --resume
cmp -s whole.onnx stopped.onnx || fail "Ctrl-C and --resume changed the result"

# a time limit in the first epoch still leaves a model
run 0 train net.onnx "${common[@]}" --epochs 1000 --time-limit 10ms -o short.onnx --json
says out '"stopped":true' "--time-limit"

# fresh weights, and every other option
run 0 train net.onnx "${data[@]}" --batch 16 --epochs 1 --init --optimizer adamw --schedule step \
    --warmup 0.5 --clip 1 --label-smoothing 0.1 -o init.onnx

# wrong wishes
run 1 train five.onnx "${data[@]}" --epochs 1 -o x.onnx
says err "the data has 10 classes, the model has 5 outputs" "too few outputs"
run 1 train net.onnx "${data[@]}" --epochs 3 --lr 1e30 --batch 16 -o x.onnx
says err "first tensor: '" "a learning rate that diverges"
run 1 train net.onnx "${data[@]}" --epochs 1 --batch 1000 -o x.onnx
says err "fewer than a batch of 1000" "too large a batch"
run 2 train net.onnx "${data[@]}" --epochs 1 --augment crop,blur -o x.onnx
says err "blur" "an unknown augmentation"
run 1 train net.onnx "${data[@]}" --epochs 1 --batch 16 -o missing/x.onnx
says err "there is no folder 'missing'" "an output folder that is not there"
run 2 train net.onnx "${data[@]}" --epochs 1 -o net.onnx
says err "overwrite" "output over input"
# … by another name, and by other commands
cp net.onnx kept.onnx
mkdir home && cp net.onnx home/model.onnx && ln -s home/model.onnx link.onnx
over=("${data[@]}" --calib 16 --batch 16)
refuses 2 overwrite train ./net.onnx "${data[@]}" --epochs 1 -o net.onnx
refuses 2 overwrite train home "${data[@]}" --epochs 1 -o home/model.onnx
refuses 2 overwrite train link.onnx "${data[@]}" --epochs 1 -o ./home/model.onnx
refuses 2 overwrite quantize home/model.onnx "${over[@]}" --search uniform -o home
refuses 2 overwrite quantize link.onnx "${over[@]}" --settings random -o home
refuses 2 overwrite meta-train link.onnx "${over[@]}" --epochs 1 -o home/model.onnx
cmp -s kept.onnx net.onnx || fail "train wrote over its model"
cmp -s kept.onnx home/model.onnx || fail "a command wrote over its model"
run 0 quantize net.onnx "${over[@]}" --search uniform --ptq none --quiet -o made
run 0 quantize net.onnx "${over[@]}" --search uniform --ptq none --quiet -o made # again
refuses 2 overwrite export made --to qdq -o ./made/model.onnx
run 0 export made --to qdq -o made/copy.onnx
run 1 train auto.onnx "${data[@]}" --epochs 1 -o x.onnx
[[ ! -e x.onnx ]] || fail "a failed run left x.onnx"

# a full disk at checkpoint time: the former checkpoint and model stay
(
    trap '' XFSZ
    ulimit -f 100 # blocks of 1 KiB: the model fits, the checkpoint with four copies does not
    "$program" train net.onnx "${common[@]}" --epochs 2 -o full.onnx > out 2> err
    [[ $? == 1 ]]
) || fail "a full disk: $(head -c 300 err)"
says err "checkpoint" "a full disk"
[[ -e full.onnx ]] || fail "a full disk took the model"
[[ ! -e full.onnx.checkpoint.npz ]] || fail "half a checkpoint is left"
compgen -G 'full.onnx*.tmp' > /dev/null && fail "a temporary file is left"

if [[ $failures -gt 0 ]]; then
    echo "$failures failures"
    exit 1
fi
echo "training and new networks behave"
