#!/usr/bin/env bash
# examples/quantize_model.c does what it says: the limit is kept, the files are there, the C is right, and
# the folder measures as the results say; a limit out of reach and a missing model are told. C of two names
# is one program.
set -euo pipefail
example=$(dirname "$1")/example_quantize
model=$2/examples/glyphs.onnx
export OMP_WAIT_POLICY=passive # waiting threads take nothing from the other tests
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
fail() {
    echo "FAIL: $*"
    exit 1
}
number() { # FILE PREFIX KEY: the last KEY in the line
    sed -nE "s/^$2 .*\"$3\":([0-9.e+-]+).*/\1/p" "$1"
}

"$example" "$model" builtin:glyphs 24576 out > log || fail "exit status $?"
for name in model.onnx policy.json results.json report.html c/model.c c/model.h; do
    [[ -s out/$name ]] || fail "no $name"
done
bytes=$(sed -nE 's/.*"quantized":\{[^}]*"bytes":([0-9]+).*/\1/p' log)
[[ $bytes -gt 12000 && $bytes -le 24576 ]] || fail "bytes: '$bytes'"
found=$(sed -nE 's/.*"quantized":\{[^}]*"top1":([0-9.]+).*/\1/p' log)
measured=$(number log integer top1)
[[ -n $found && $found == "$measured" ]] || fail "top1: results say '$found', measured '$measured'"
${CC:-cc} -std=c99 -O1 -Iout/c out/c/*.c -o model_test
./model_test > /dev/null || fail "the C differs"

for name in left right; do "$1" export out --to c --c-name $name -o both --quiet > log; done
rm both/*_test.c
cat > both/two.c << 'END'
#include "left.h"
#include "right.h"
int main(void) { return left_selftest() != 0 || right_selftest() != 0; }
END
${CC:-cc} -std=c99 -O1 -Iboth both/*.c -o two
./two || fail "two networks in one program differ"
"$1" export out --to c -o 'two words' --quiet > log
grep -qF -e "-o 'two words'" 'two words/model.h' || fail "as typed: $(head -4 'two words/model.h')"
if "$1" export out --to c --c-name 2nd -o both 2> err; then fail "a name that C does not have"; fi
grep -q "C name '2nd'" err || fail "C name: $(cat err)"

if "$example" "$model" builtin:glyphs 100 tight > log 2> err; then fail "100 bytes are met"; fi
grep -q 'tight holds the smallest model' err || fail "limit: $(cat err)"
[[ -s tight/model.onnx ]] || fail "nothing was written"
if "$example" nowhere.onnx builtin:glyphs 100 none 2> err; then fail "no model, no failure"; fi
grep -q nowhere.onnx err || fail "missing model: $(cat err)"
status=0
"$example" "$model" builtin:glyphs many out 2> err || status=$?
[[ $status == 2 ]] || fail "wrong usage: $status"
echo "the example keeps $bytes of 24576 bytes at $measured %"
