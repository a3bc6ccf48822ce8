#!/usr/bin/env bash
# Bad input with real networks and real data: damaged files, data that does not fit, numbers that are
# none, limits out of reach, folders that cannot be written, no memory, kill -9. One clear line, the
# right exit status, nothing half-written, nothing lost.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
models=$data/models
mkdir cifar # 400 training images and 100 test images of CIFAR-10
head -c $((3073 * 400)) "$data/cifar-10-batches-bin/data_batch_1.bin" > cifar/data_batch_1.bin
head -c $((3073 * 100)) "$data/cifar-10-batches-bin/test_batch.bin" > cifar/test_batch.bin
small=$models/mlperf_resnet8.onnx
quick=(--data cifar --limit 48 --calib 16 --weight-bits 4,8 --search uniform --quiet --threads 1)
bounded() { [[ -z ${NIBBLE_SANITIZED-} ]]; } # the sanitizers' shadow needs the address space
put() { # FILE OFFSET BYTES-AS-HEX
    # shellcheck disable=SC2059
    printf "$(sed 's/../\\x&/g' <<< "$3")" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
nothing_in() { # FOLDER: no result under its final name, no temporary file
    local file
    for file in "$1"/model.onnx "$1"/results.json "$1"/report.html "$1"/c/*; do
        [[ ! -e $file ]] || fail "$file was written"
    done
    ls "$1" 2> waiting | grep tmp && fail "temporary files in $1"
    return 0
}

# ---- damaged files -------------------------------------------------------------------------------
for model in "$models"/*.onnx; do
    size=$(wc -c < "$model")
    for keep in 3 $((size / 100)) $((size / 2)) $((size - 1)); do
        head -c "$keep" "$model" > cut.onnx
        refuses 1 cut.onnx info cut.onnx
    done
done
head -c 200000 "$models/resnet20.onnx" > cut.onnx
refuses 1 cut.onnx quantize cut.onnx "${quick[@]}" -o made
refuses 1 cut.onnx eval cut.onnx --data cifar
nothing_in made

# One bit inverted, anywhere: refused in one line, or another model that runs; never more than 2 GB,
# 20 seconds or a signal. (onnx.mutated tries many more, and in more ways.)
seed=7
next() { seed=$(((seed * 1103515245 + 12345) & 0x7fffffff)); }
flips() {
    bounded && ulimit -v 2000000
    failures=0
    for ((n = 0; n < 30; n++)); do
        for name in mnist_8 mlperf_kws_dscnn; do
            next
            cp "$models/$name.onnx" flip.onnx
            at=$(((seed >> 3) % $(wc -c < flip.onnx)))
            put flip.onnx "$at" "$(printf %02x $(($(od -An -tu1 -j "$at" -N 1 flip.onnx) ^ 1 << (seed & 7))))"
            for job in "info flip.onnx" "quantize --dry-run flip.onnx"; do
                # shellcheck disable=SC2086
                timeout 20 "$program" $job > out 2> err
                status=$?
                [[ $status == 0 || $status == 1 ]] ||
                    fail "$name, bit $((seed & 7)) of byte $at: $job: exit status $status: $(tail -3 err)"
                [[ $status == 0 || $(grep -vc '^nibble: warning' err) == 1 ]] ||
                    fail "$name, bit $((seed & 7)) of byte $at: $(cat err)"
            done
        done
    done
    return "$failures"
}
(flips) || fail "files with a bit inverted"

# ---- data that does not fit ----------------------------------------------------------------------
refuses 1 "28×28" quantize "$models/resnet20.onnx" --data "$data/fashion-mnist" -o made
refuses 1 "32×32" eval "$models/mnist_8.onnx" --data cifar
refuses 1 "32×32" compare "$models/resnet20.onnx" "$models/mnist_8.onnx" --data cifar
refuses 1 "channels of 32×32" eval "$models/mlperf_ad01.onnx" --data cifar
refuses 1 nowhere.npy run "$models/mnist_8.onnx" --input nowhere.npy
mkdir labels short
cp cifar/*.bin labels
put labels/test_batch.bin $((3073 * 7)) c8
refuses 1 "200" eval "$models/resnet20.onnx" --data labels
put labels/data_batch_1.bin $((3073 * 9)) 0b
refuses 1 "11" quantize "$models/resnet20.onnx" "${quick[@]}" --data labels -o made
cp cifar/*.bin short
truncate -s -1 short/test_batch.bin
refuses 1 "test_batch.bin" eval "$models/resnet20.onnx" --data short
: > short/test_batch.bin
refuses 1 "test_batch.bin" eval "$models/resnet20.onnx" --data short
mkdir mnist
for file in train-images-idx3 train-labels-idx1; do cp "$data/fashion-mnist/$file-ubyte" mnist; done
truncate -s -1000 mnist/train-images-idx3-ubyte
refuses 1 "train-images-idx3-ubyte" eval "$models/mnist_8.onnx" --data mnist
nothing_in made

# ---- NaN and infinity in weights -----------------------------------------------------------------
for value in 0000c07f 0000807f 000080ff; do
    cp "$models/resnet20.onnx" odd.onnx
    at=$(grep -obUaP 'linear\.weight\x4a' odd.onnx | tail -1 | cut -d: -f1)
    put odd.onnx $((at + 13 + 1 + 2 + 100 * 4)) "$value"
    works eval odd.onnx --data cifar --limit 16
    says err "hold NaN or infinity"
    says err "warning"
    [[ $value != 0000c07f ]] || grep -q 'top-1  *0.00' out || fail "NaN counts as right: $(cat out)"
    refuses 1 linear.weight quantize odd.onnx "${quick[@]}" --avg-bits 6 -o odd
    nothing_in odd
done

# ---- limits out of reach -------------------------------------------------------------------------
for limit in "max-size 10K" "compression 50x" "avg-bits 2" "max-ram 1K" "max-bops 1000"; do
    rm -rf tight
    # shellcheck disable=SC2086
    refuses 3 "closest" quantize "$small" "${quick[@]}" --$limit -o tight
    says tight/results.json '"met": false'
    for file in model.onnx policy.json results.json report.html; do
        [[ -s tight/$file ]] || fail "--$limit: no $file"
    done
done
says err "max-bops 1000 cannot be met"
for search in uniform sensitivity; do
    refuses 3 "max-drop" quantize "$models/resnet20.onnx" "${quick[@]}" --weight-bits 1 --max-drop 0 \
        --search $search -o tight
done

# ---- folders that cannot be written --------------------------------------------------------------
: > plain
refuses 1 plain/deep quantize "$small" "${quick[@]}" --avg-bits 8 -o plain/deep
works quantize "$small" "${quick[@]}" --avg-bits 8 --emit c -o whole
refuses 1 plain/c export whole --to c -o plain/c
refuses 1 /dev/full export whole --to qdq -o /dev/full
refuses 1 /dev/full eval "$models/resnet20.onnx" --data cifar --limit 16 --predictions /dev/full
[[ -c /dev/full ]] || fail "/dev/full is no longer a device"
"$program" info "$models/resnet20.onnx" > /dev/full 2> err && fail "a full standard output: done"
says err "standard output"
in_small_disk() { # OPTIONS SCRIPT: in a mount namespace of its own, ./disk is a file system
    mkdir -p disk
    unshare -m bash -c "mount -t tmpfs -o $1 tmpfs disk && { $2; }" 2> mounting
}
if in_small_disk size=64k true; then
    for size in 16k 64k 128k 180k; do
        in_small_disk "size=$size" "
            timeout 60 '$program' quantize '$small' --data cifar --limit 48 --calib 16 --weight-bits 4,8 \
                --search uniform --quiet --threads 1 --avg-bits 6 --emit c -o disk/out > out 2> err
            echo \$? > status; ls -R disk > listing; cp -r disk/out copy"
        [[ $(cat status) == 1 ]] || fail "a disk of $size: exit status $(cat status): $(cat err)"
        [[ $(grep -c '^nibble: ' err) == 1 ]] || fail "a disk of $size: $(cat err)"
        says err "disk/out"
        grep tmp listing && fail "a disk of $size: temporary files are left"
        for file in copy/*.json; do
            [[ ! -e $file ]] || tail -n 1 "$file" | grep -q '^}' || fail "a disk of $size: $file is cut"
        done
        [[ ! -e copy/results.json ]] || fail "a disk of $size: results.json of a run that failed"
        [[ ! -e copy/model.onnx ]] || works info copy/model.onnx
        rm -rf copy
    done
    in_small_disk size=1m "
        mount -o remount,ro disk
        timeout 60 '$program' quantize '$small' --data cifar --limit 48 -o disk/out > out 2> err
        echo \$? > status"
    [[ $(cat status) == 1 ]] || fail "a read-only disk: exit status $(cat status)"
    says err "disk/out"
else
    echo "note: no mount: full and read-only disks were not tried"
fi
if [[ $EUID != 0 ]]; then
    mkdir locked
    chmod a-w locked
    refuses 1 locked/out quantize "$small" "${quick[@]}" --avg-bits 8 -o locked/out
fi

# ---- no memory -----------------------------------------------------------------------------------
# From the least that the program starts with to what it needs: refused in one line, or done.
if bounded; then
    before=$failures
    for ((kilo = 56000; kilo < 260000; kilo += 3000 + kilo / 16)); do
        rm -rf poor
        (ulimit -v "$kilo" && exec timeout 60 "$program" quantize "$small" "${quick[@]}" \
            --avg-bits 6 --threads $((1 + kilo / 1000 % 2)) -o poor) > out 2> err
        status=$?
        [[ $status == 127 ]] && continue # the loader had no memory
        [[ $status == 0 || $status == 1 ]] || fail "$kilo KB: exit status $status: $(head -c 300 err)"
        [[ $status == 0 ]] || grep -qE '^nibble: .*(no memory|cannot start|memory)' err ||
            fail "$kilo KB: no word of memory: $(head -c 300 err)"
        [[ $status == 0 || $(grep -c . err) == 1 ]] || fail "$kilo KB: $(cat err)"
        [[ $status == 0 ]] || nothing_in poor
        ((failures > before + 3)) && break
    done
    [[ $status == 0 ]] || ((failures > before)) || fail "260 MB are not enough: $(cat err)"
fi

# ---- kill -9, then --resume ----------------------------------------------------------------------
job=(quantize "$small" --data cifar --limit 40 --calib 16 --weight-bits 2,3,4,6 --quiet
    --threads 1 --avg-bits 3 --search "genetic:population=16,iterations=4,parents=5")
works "${job[@]}" -o one
for after in 0 0.4; do # killed twice, at different places of the search
    killed killed/policy.json "${job[@]}" -o killed --resume
    grep -q '"policy"' killed/policy.json || fail "after kill -9 there is no policy"
done
works "${job[@]}" -o killed --resume
cmp -s one/model.onnx killed/model.onnx || fail "after kill -9 model.onnx differs"
[[ $(sed -n '/"policy"/,$p' one/policy.json) == "$(sed -n '/"policy"/,$p' killed/policy.json)" ]] ||
    fail "after kill -9 the policy differs"
count() { sed -n 's/.*"trials": \([0-9]*\).*/\1/p' "$1/results.json"; }
(($(count killed) < $(count one))) || fail "--resume scored $(count killed) policies, a whole run $(count one)"

if ((failures)); then
    echo "$failures failures"
    exit 1
fi
echo "real networks and data, damaged in every way, are refused as they should be"
