#!/usr/bin/env bash
# Several processes (mpirun) give what one gives, byte for byte: searches of all kinds, weights that only
# the first process can make, the sensitivity table, a run that is stopped and resumed. The first one speaks
# for all.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
# Open MPI, which would refuse root and more processes than cores
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none
job=(quantize "$root/examples/glyphs.onnx" --data builtin:glyphs --limit 96 --calib 25 --threads 1
    --weight-bits 2,4 --quiet --avg-bits 3.5)
genetic=(--search "genetic:population=6,iterations=2,parents=3")

mpi() { # PROCESSES ARGS...
    local n=$1
    shift
    timeout 120 "$MPIEXEC" -n "$n" "$program" "$@" > out 2> err ||
        fail "mpirun -n $n nibble $*: exit status $?: $(head -c 600 err)"
}
policy() { sed -n '/"policy"/,$p' "$1/policy.json"; }
timeless() { grep -vE '"(seconds|latency|images_per_second)"' "$1/results.json"; }
same() { # A B: the same policy, model and figures
    cmp -s "$1/model.onnx" "$2/model.onnx" || fail "model.onnx differs: $1 $2"
    policy "$1" | cmp -s - <(policy "$2") || fail "policy.json differs: $1 $2"
    timeless "$1" | cmp -s - <(timeless "$2") ||
        fail "results.json differs: $(diff "$1/results.json" "$2/results.json")"
}

works --version
says out "MPI" "nibble --version"

# ---- the same bytes, the answer once -----------------------------------------------------------------
works "${job[@]}" "${genetic[@]}" -o one
cp out one.out
mpi 2 "${job[@]}" "${genetic[@]}" -o two
same one two
[[ $(wc -l < out) == "$(wc -l < one.out)" ]] || fail "two processes: $(cat out)"
works "${job[@]}" --no-correct -o plain
mpi 3 "${job[@]}" --no-correct -o plain3
same plain plain3
weights=(--search "metaquantnet:epochs=1,hidden=4,population=4,parents=2,iterations=1,context=3"
    --activation-bits 4,pact4,8 --batch 16)
works "${job[@]}" "${weights[@]}" -o meta
mpi 2 "${job[@]}" "${weights[@]}" -o meta2
policy meta | cmp -s - <(policy meta2) || fail "policy.json differs: meta meta2"
settings=(--settings random:trials=2 --search uniform)
works "${job[@]}" "${settings[@]}" -o set
mpi 2 "${job[@]}" "${settings[@]}" -o set2
policy set | cmp -s - <(policy set2) || fail "policy.json differs: set set2"

table=(sensitivity "$root/examples/glyphs.onnx" --data builtin:glyphs --limit 96 --calib 25
    --weight-bits 2,8 --threads 1 --json --quiet)
works "${table[@]}"
mv out table
mpi 2 "${table[@]}"
cmp -s out table || fail "the sensitivity table differs: $(diff out table | head -20)"

# ---- what is not spread, and failures, are said once ---------------------------------------------------
mpi 2 list costs
mv out list
works list costs
cmp -s out list || fail "list costs of two processes: $(cat list)"
"$MPIEXEC" -n 2 "$program" quantize none.onnx --data builtin:glyphs -o none > out 2> err &&
    fail "a model that is not there: exit status 0"
[[ $(grep -c '^nibble: ' err) == 1 ]] || fail "a model that is not there: $(cat err)"
[[ ! -s out ]] || fail "a model that is not there: $(cat out)"

# ---- stopped ---------------------------------------------------------------------------------------
genetic=(--search "genetic:population=12,iterations=4,parents=4" --weight-bits 2,3,4,6)
works "${job[@]}" "${genetic[@]}" -o whole
"$MPIEXEC" -n 2 "$program" "${job[@]}" "${genetic[@]}" -o stopped > out 2> err & pid=$!
for ((i = 0; i < 600; i++)); do
    [[ -s stopped/policy.json ]] && break
    sleep 0.02
done
kill -USR1 "$pid"
wait "$pid"
status=$?
[[ $status == 0 ]] || fail "stopped: exit status $status: $(cat err)"
says stopped/results.json '"cancelled": true'
mpi 2 "${job[@]}" "${genetic[@]}" -o stopped --resume
policy whole | cmp -s - <(policy stopped) || fail "policy.json differs after --resume"
grep -q '"cancelled"' stopped/results.json && fail "the resumed run is still called cancelled"

if ((failures)); then
    echo "$failures failures"
    exit 1
fi
echo "several processes are one"
