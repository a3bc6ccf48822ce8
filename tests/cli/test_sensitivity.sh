#!/usr/bin/env bash
# The table of nibble sensitivity: a row for every scheme that has losses, the worst of all first.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
ask=(sensitivity "$root/examples/glyphs.onnx" --data builtin:glyphs --limit 30 --calib 10 --threads 1
    --quiet --weight-bits "3,8" --activation-bits 8)

works "${ask[@]}"
grep -q scheme out && fail "uniform only, and a scheme is named: $(head out)"

works "${ask[@]}" --schemes uniform,pot --json
tr '{' '\n' < out | sed -nE 's/.*"layer":"([^"]*)".*/layer \1/p
    s/"bits":3,"scheme":"([a-z]*)","loss":([-0-9.e+]*),.*/\1 \2/p' |
    awk '$1 == "layer" {layer = $2; next} {printf "%s %s %.4f\n", layer, $1, $2}' |
    sed 's/ -0\.0000$/ 0.0000/' > want
[[ $(wc -l < want) == 16 ]] || fail "not eight layers of two schemes: $(cat want)"
works "${ask[@]}" --schemes uniform,pot
awk '$2 == "weight" && ($3 == "uniform" || $3 == "pot") {print $1, $3, $4}' out |
    sed 's/ -0\.0000$/ 0.0000/' | head -16 > got
diff <(sort want) <(sort got) > differ || fail "the table is not that of --json: $(cat differ)"
worst=$(sort -k3,3gr want | head -1)
[[ $(head -2 got) == *"$worst"* ]] || fail "not the worst first: $worst, $(cat got)"
says out "most to blame           ${worst%% *}"
grep -qE ' 8 +pot3 ' out || fail "no step to pot3: $(cat out)"

if ((failures)); then
    echo "$failures failures"
    exit 1
fi
echo "sensitivities are shown by scheme and width"
