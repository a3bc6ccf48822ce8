#!/usr/bin/env bash
# Bad files, bad folders, limits out of reach: one clear line that names the culprit, the right exit
# status, no crash, and what is on disk stays whole.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
# shellcheck source=tests/cli/hostile.sh
. "$root/tests/cli/hostile.sh"
good=$root/examples/glyphs.onnx
glyphs=(--data builtin:glyphs --limit 64)
quick=("${glyphs[@]}" --calib 16 --weight-bits 4,8)

# ---- files that are not models -------------------------------------------------------------------
: > empty.onnx
refuses 1 empty.onnx info empty.onnx
refuses 1 empty.onnx quantize empty.onnx "${quick[@]}" -o made
printf 'P6 1 1 255 abc' > picture.onnx
refuses 1 picture.onnx info picture.onnx
refuses 1 folder.onnx/model.onnx info "$(mkdir folder.onnx && echo folder.onnx)"
size=$(wc -c < "$good")
for keep in 1 7 100 5000 $((size / 2)) $((size - 1)); do
    head -c "$keep" "$good" > "cut$keep.onnx"
    refuses 1 "cut$keep.onnx" info "cut$keep.onnx"
done
for at in 20 300 1500 4000; do # one byte inverted: refused in one line, or a different model
    cp "$good" flip.onnx
    byte=$(od -An -tu1 -j "$at" -N 1 flip.onnx)
    # shellcheck disable=SC2059
    printf "\\x$(printf %02x $((255 - byte)))" | dd of=flip.onnx bs=1 seek="$at" conv=notrunc status=none
    timeout 60 "$program" info flip.onnx > out 2> err
    status=$?
    [[ $status == 0 || $status == 1 ]] || fail "byte $at flipped: exit status $status"
    [[ $status == 0 || $(grep -vc '^nibble: warning' err) == 1 ]] || fail "byte $at: $(cat err)"
done

# ---- files that are models of nonsense -----------------------------------------------------------
deep=$(node Relu n0 x y)
for ((i = 0; i < 150; i++)); do deep=$(node If "n$i" c y "$(message 5 "$(text 1 b)$(message 6 "$deep")$(number 20 5)")"); done
model "$deep" > deep.onnx
refuses 1 deep.onnx info deep.onnx
ends="$(value 11 x '1 4')$(value 12 b '1 4')"
model "$(node Relu first a b)$(node Relu second b a)$ends" > cycle.onnx
refuses 1 "'first'" info cycle.onnx
model "$(node Relu self b b)$ends" > self.onnx
refuses 1 "'self'" info self.onnx
model "$(node Relu twice x b)$(node Relu again x b)$ends" > twice.onnx
refuses 1 "'b'" info twice.onnx
model "$(node Relu lone nowhere b)$ends" > lone.onnx
refuses 1 "'nowhere'" info lone.onnx
model "$(node Gemm product 'x w' b)$(tensor 5 w '5 2' "$(printf '0000803f%.0s' {1..10})")$ends" > shape.onnx
refuses 1 "'product'" info shape.onnx
says out "parameters"
refuses 1 "'product'" quantize shape.onnx "${quick[@]}" -o made
model "$(node Gemm product 'x w' b)$(tensor 5 w '4 4' 0000803f)$ends" > short.onnx
refuses 1 "'w'" info short.onnx
model "$(node Gemm product 'x w' b)$(tensor 5 w "4 $((1 << 40))" 0000803f)$ends" > huge.onnx
refuses 1 "'w'" info huge.onnx
model "$(node Gemm product 'x w' b)$(tensor 5 w "$((1 << 62)) $((1 << 62))" 0000803f)$ends" > huger.onnx
refuses 1 "'w'" info huger.onnx
model "$(node Gemm product 'x w' b)$(tensor 5 w '4 -4' 0000803f)$ends" > negative.onnx
refuses 1 "'w'" info negative.onnx
model "$(node Relu wide x b)$(value 11 x "$((1 << 31)) $((1 << 31)) $((1 << 31))")$(value 12 b 1)" > wide.onnx
refuses 1 "'x'" info wide.onnx
at=$(grep -obUaP '\x05image\x12' "$good" | cut -d: -f1)
at=$((at + $(tail -c +$((at + 1)) "$good" | grep -obUaP '\x08\x03' | head -1 | cut -d: -f1)))
cp "$good" channels.onnx
printf '\x08\x04' | dd of=channels.onnx bs=1 seek="$at" conv=notrunc status=none
refuses 1 /conv/Conv info channels.onnx
says out /conv/Conv
refuses 1 /conv/Conv quantize channels.onnx "${quick[@]}" -o made

# ---- NaN in weights ------------------------------------------------------------------------------
cp "$good" nan.onnx
at=$(grep -obUaP 'conv\.weight\x4a\xc0\x0d' nan.onnx | head -1 | cut -d: -f1)
printf '\x00\x00\xc0\x7f' | dd of=nan.onnx bs=1 seek=$((at + 14)) conv=notrunc status=none
works info nan.onnx
says err "'conv.weight'"
refuses 1 NaN quantize nan.onnx "${quick[@]}" -o nan
[[ ! -e nan/model.onnx ]] || fail "a model with NaN was delivered"

# ---- an unknown operator -------------------------------------------------------------------------
last=$(grep -obUaP '\x22\x04Relu' "$good" | tail -1 | cut -d: -f1)
cp "$good" unknown.onnx
printf 'Qelu' | dd of=unknown.onnx bs=1 seek=$((last + 2)) conv=notrunc status=none
works info unknown.onnx
says out Qelu
says out "without 4 nodes of unknown shape"
grep -qE 'Relu_1 +Qelu +\? ' out || fail "the shape of what an unknown operator makes: $(cat out)"
works info unknown.onnx --json
says out '"shape":null'
says out '"macs_partial":true'
refuses 1 "node '/block3/Relu_1': this build does not know Qelu" quantize unknown.onnx "${quick[@]}" -o strict --strict --avg-bits 6
works quantize unknown.onnx "${quick[@]}" -o unknown --avg-bits 6 --search sensitivity:refine=2
says err "node '/block3/Relu_1': this build does not know Qelu of opset"
says err "nodes behind it stay as they are"
[[ $(grep -c 'as they are' err) == 1 ]] || fail "an unknown operator: not one warning: $(cat err)"
says unknown/results.json '"untouched_bytes": 1640' "what stays float"
# the quantized part alone would fit
refuses 3 "1640 of them in nodes that stay float" quantize unknown.onnx "${quick[@]}" -o small --max-size 35K --search uniform
grep -qUaP '\x22\x04Qelu' unknown/model.onnx || fail "the unknown operator is not in model.onnx"
refuses 1 Qelu eval unknown.onnx "${glyphs[@]}"
refuses 1 Qelu train unknown.onnx "${glyphs[@]}" --epochs 1 --batch 16 -o made.onnx
refuses 1 "'unknown.onnx': node '/block3/Relu_1'" compare "$good" unknown.onnx "${glyphs[@]}"
whole="'unknown/model.onnx': node '/block3/Relu_1': this build does not know Qelu of opset 21: the network cannot be run as a whole"
refuses 1 "$whole" eval unknown "${glyphs[@]}"
refuses 1 "$whole" eval unknown "${glyphs[@]}" --engine integer
refuses 1 "$whole" compare "$good" unknown "${glyphs[@]}"
refuses 1 "$whole" bench unknown --engine integer --seconds 0.01
works export unknown --to c -o unknown_c
says err "warning: the C ends in front of node '/block3/Relu_1' (operator Qelu)"
works export unknown --to qdq --c-name left -o unknown.qdq.onnx
says err "for C alone, which --to c asks for: --c-name"
for file in model.h README.txt; do
    says unknown_c/$file "cut in front of node '/block3/Relu_1' (operator Qelu)"
done

# ---- a model that is quantized already -----------------------------------------------------------
again="'unknown/model.onnx' is already quantized; give the float model it was made from"
refuses 1 "$again" quantize unknown "${quick[@]}" -o made
refuses 1 "$again" quantize unknown --dry-run
refuses 1 "$again" sensitivity unknown "${quick[@]}"
works info unknown
says out "$again"
says out "47,250" "the codes of all layers are parameters"

# ---- a quantized model that the integer engine cannot rebuild -------------------------------------
scale=$(tensor 5 scale '' cdcc4c3d)
perm=$(message 5 "$(text 1 perm)$(number 8 1)$(number 8 0)$(number 20 7)")
model "$(node QuantizeLinear quantize 'x scale' q)$(node DequantizeLinear dequantize 'q scale' d)$(node Flatten flat d f)$(node Transpose turn f t "$perm")$(node Transpose back t b "$perm")$scale$(value 11 x '1 3 32 32')$(value 12 b '1 3072')" > foreign.onnx
works eval foreign.onnx "${glyphs[@]}" --json
says err "warning: the float engine is used: "
says err "'t'"
says out '"engine":"float"'
refuses 1 "'t'" eval foreign.onnx "${glyphs[@]}" --engine integer
refuses 1 "'t'" export foreign.onnx --to c -o made

# ---- inputs that data sets do not feed -----------------------------------------------------------
ends="$(message 11 "$(text 1 x)$(message 2 "$(message 1 "$(number 1 7)$(message 2 "$(message 1 "$(number 1 1)")$(message 1 "$(number 1 3)")$(message 1 "$(number 1 32)")$(message 1 "$(number 1 32)")")")")")$(value 12 b '1 3 32 32')"
model "$(node Cast cast x b "$(message 5 "$(text 1 to)$(number 3 1)$(number 20 2)")")$ends" > integers.onnx
works bench integers.onnx --seconds 0.01
refuses 1 "int64" eval integers.onnx "${glyphs[@]}"
model "$(node Relu same x b)$(value 11 x '1 3 64 64')$(value 12 b '1 3 64 64')" > other.onnx
refuses 1 "64" compare "$good" other.onnx "${glyphs[@]}"
many=""
for i in {1..12}; do many+=$(value 11 "x$i" '1 9'); done
model "$(node Concat join 'x1 x2 x3 x4 x5 x6 x7 x8 x9 x10 x11 x12' b "$(message 5 "$(text 1 axis)$(number 3 1)$(number 20 2)")")$many$(value 12 b '1 108')" > many.onnx
works bench many.onnx --seconds 0.01
refuses 1 "12 inputs" eval many.onnx "${glyphs[@]}"
model "$(node Conv empty 'x w' b)$(tensor 5 w '0 3 3 3' '')$(value 11 x '1 3 32 32')$(value 12 b '')" > empty_layer.onnx
works info empty_layer.onnx
refuses 1 "[1,0,30,30]" quantize empty_layer.onnx "${quick[@]}" -o made
model "$(node Conv wide 'x w' b)$(tensor 5 w '65552 1 1 1' "$(printf '0%.0s' {1..524416})")$(value 11 x '1 1 2 2')$(value 12 b '1 65552 2 2')" > wide_layer.onnx
works info wide_layer.onnx
refuses 1 32767 quantize --dry-run wide_layer.onnx
model "$(node Qelu odd x q)$(node MatMul product 'q w' b)$(tensor 5 w '2 2' "$(printf '0000803f%.0s' {1..4})")$(value 11 x '1 2')$(value 12 b '1 2')" > behind.onnx
works info behind.onnx # the shape of what stands behind an unknown operator is not known
says out Qelu
cp "$good" $'\xff.onnx'
works info $'\xff.onnx' --json
says out '"path":"?.onnx"'

# ---- data ----------------------------------------------------------------------------------------
refuses 1 no-such-data eval "$good" --data no-such-data
mkdir nothing
refuses 1 nothing eval "$good" --data nothing
refuses 2 --data quantize "$good" -o made
printf 'x,label\n' > list.csv
refuses 1 list.csv eval "$good" --data list.csv
model "$(node Relu same x b)$(value 11 x '1 3 64 64')$(value 12 b '1 3 64 64')" > other.onnx
refuses 1 "'x'" eval other.onnx --data builtin:glyphs
refuses 1 "'x'" quantize other.onnx "${quick[@]}" -o made
idx() { # TYPE DIMS...: an IDX header
    printf "\\x00\\x00\\x08\\x$(printf %02x $#)"
    local d
    for d; do printf "\\x00\\x00\\x$(printf %02x $((d >> 8)))\\x$(printf %02x $((d & 255)))"; done
}
mkdir idx
{ idx 16 28 28; head -c $((16 * 784)) /dev/zero; } > idx/train-images-idx3-ubyte
{ idx 16; printf '\xff%.0s' {1..16}; } > idx/train-labels-idx1-ubyte
refuses 1 "28×28" eval "$good" --data idx
ends="$(value 11 x '1 1 28 28')$(value 12 b '1 10')"
model "$(node Reshape flat 'x shape' y)$(message 5 "$(number 1 2)$(number 2 7)$(text 8 shape)$(message 9 0100000000000000ffffffffffffffff)")$(node Gemm product 'y w' b)$(tensor 5 w '784 10' "$(printf '0000803f%.0s' {1..7840})")$ends" > digits.onnx
refuses 1 "label 255" eval digits.onnx --data idx --split train
refuses 1 "label 255" quantize digits.onnx --data idx -o made --avg-bits 8
{ idx 16; printf '\x02%.0s' {1..16}; } > idx/train-labels-idx1-ubyte
works quantize digits.onnx --data idx -o digits # every width is fixed: nothing to search
says digits/results.json '"fixed"'

# ---- limits out of reach -------------------------------------------------------------------------
refuses 3 max-size quantize "$good" "${quick[@]}" -o tight --max-size 1K --json
says out '"met":false'
for file in model.onnx policy.json results.json; do
    [[ -s tight/$file ]] || fail "a limit out of reach: no $file"
done
says tight/results.json '"met": false'
grep -q '"bits": 4' tight/policy.json || fail "a limit out of reach: not the closest policy"
works eval tight --data builtin:glyphs --limit 64
refuses 3 "cannot be met" quantize "$good" "${quick[@]}" -o tight2 --compression 500x --quiet
refuses 3 "'nibble bench' shows" quantize "$good" "${quick[@]}" -o tight3 --max-latency 0.0001ms --search uniform --quiet

# ---- folders that cannot be written --------------------------------------------------------------
: > file
refuses 1 file quantize "$good" "${quick[@]}" -o file
refuses 1 file/deeper quantize "$good" "${quick[@]}" -o file/deeper
refuses 1 /proc/nibble quantize "$good" "${quick[@]}" -o /proc/nibble
mkdir held
mkdir held/model.onnx
refuses 1 held/model.onnx quantize "$good" "${quick[@]}" -o held --avg-bits 8 --search uniform
# a full disk: what was there stays whole
works quantize "$good" "${quick[@]}" -o full --avg-bits 8 --search uniform
cp full/model.onnx before.onnx
(
    failures=0
    ulimit -f 40 # blocks of 1024 bytes
    trap '' XFSZ
    refuses 1 full/ quantize "$good" "${quick[@]}" -o full --avg-bits 8 --search uniform
    exit "$failures"
) || fail "a full disk"
cmp -s before.onnx full/model.onnx || fail "a full disk: the old model is gone"
if ls full | grep -q tmp; then fail "a full disk: $(ls full)"; fi
echo garbage > full/study.db
refuses 1 full/study.db quantize "$good" "${quick[@]}" -o full --avg-bits 8 --resume

# ---- how bytes become inputs ---------------------------------------------------------------------
mkdir hollow
refuses 1 "folder 'hollow' is not one that quantize wrote" eval hollow --data builtin:glyphs
LC_ALL=C sed 's/nibble\.\(scale\|mean\|std\)/nobble.\1/' "$good" > silent.onnx
refuses 2 "2 values, the images 3 channels" eval silent.onnx --data builtin:glyphs --mean 0.4,0.5
# the quantized file remembers the transform, the float one never knew it
transform=(--mean 0.4,0.5,0.6 --std 0.2,0.3,0.4)
works quantize silent.onnx "${quick[@]}" "${transform[@]}" -o moved --avg-bits 8 --search uniform
# quantized weights are parameters, their scales are not: as many as the float network has, but for
# the two of four BatchNormalization values that a bias takes in
parameters() { grep -oE '"parameters": ?[0-9]+' out | head -1 | grep -oE '[0-9]+'; }
works info silent.onnx --json
float=$(parameters)
works info moved --json
[[ $(parameters) -le $float && $(parameters) -gt $((float * 98 / 100)) ]] ||
    fail "info: $(parameters) parameters quantized, $float in float"
works compare silent.onnx moved --data builtin:glyphs --limit 200
cp out shared
works compare silent.onnx moved --data builtin:glyphs --limit 200 "${transform[@]}"
cmp -s <(grep -v second shared) <(grep -v second out) || fail "compare: the transform is not shared"
works compare moved silent.onnx --data builtin:glyphs --limit 200
cmp -s <(grep 'same class' shared) <(grep 'same class' out) || fail "compare B A differs"

# ---- wrong values --------------------------------------------------------------------------------
refuses 2 0 quantize "$good" "${quick[@]}" -o made --weight-bits 0,4
refuses 2 nonsense quantize "$good" "${quick[@]}" -o made --search nonsense
refuses 2 "--metric auc" quantize "$good" "${quick[@]}" -o made --metric auc
refuses 2 "'no-such-layer:4,8'" quantize "$good" "${quick[@]}" -o made --rule no-such-layer:4,8
refuses 2 "'*[:4'" quantize "$good" "${quick[@]}" -o made --rule '*[:4'
echo '{"policy": [{"tensor": "nobody", "bits": 4}]}' > policy.json
refuses 1 nobody quantize "$good" "${quick[@]}" -o made --policy policy.json
echo '{"policy": [{"tensor": ' > policy.json
refuses 1 policy.json quantize "$good" "${quick[@]}" -o made --policy policy.json
refuses 1 "policy: cannot open 'absent.json'" quantize "$good" "${quick[@]}" -o made --policy absent.json

if ((failures)); then
    echo "$failures failures"
    exit 1
fi
echo "bad input is refused as it should be"
