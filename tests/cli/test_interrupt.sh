#!/usr/bin/env bash
# Interrupted searches (kill -9, Ctrl-C, --time-limit) lose nothing, --resume ends where the
# uninterrupted run ends, and the same seed gives the same bytes at any number of threads.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
job=(quantize "$root/examples/glyphs.onnx" --data builtin:glyphs --limit 96 --calib 24
    --avg-bits 3.5 --weight-bits 2,3,4,6 --quiet
    --search "genetic:population=10,iterations=3,parents=4")

# The policy, and how many policies were scored.
policy() { sed -n '/"policy"/,$p' "$1/policy.json"; }
scored() { sed -n 's/.*"trials": \([0-9]*\).*/\1/p' "$1/results.json"; }
# results.json without what the clock says.
timeless() { grep -vE '"(seconds|latency|images_per_second|threads)"' "$1/results.json"; }
same() { # A B: the same policy, model and figures
    cmp -s "$1/model.onnx" "$2/model.onnx" || fail "model.onnx differs: $1 $2"
    cmp -s "$1/policy.json" "$2/policy.json" || policy "$1" | cmp -s - <(policy "$2") ||
        fail "policy.json differs: $1 $2"
}
complete() {
    local file
    for file in model.onnx policy.json results.json study.db; do
        [[ -s $1/$file ]] || fail "$1 lacks $file"
    done
}

# ---- the same bytes ------------------------------------------------------------------------------
works "${job[@]}" -o one --threads 1
works "${job[@]}" -o two --threads 2
works "${job[@]}" -o again --threads 2
same one two
same two again
timeless two | cmp -s - <(timeless again) || fail "results.json differs: $(diff two/results.json again/results.json)"
timeless one | cmp -s - <(timeless two) || fail "results.json differs: $(diff one/results.json two/results.json)"
works "${job[@]}" -o other --seed 1
complete other
grep -q '"seed": 1' other/results.json || fail "the seed is not in results.json"
cmp -s other/study.db one/study.db && fail "another seed, the same study"

# ---- kill -9 -------------------------------------------------------------------------------------
killed killed/policy.json "${job[@]}" -o killed
grep -q '"policy"' killed/policy.json || fail "after kill -9 there is no policy"
works "${job[@]}" -o killed --resume
same one killed
complete killed
(($(scored killed) < $(scored one))) ||
    fail "--resume scored $(scored killed) policies, a whole run $(scored one)"
if ls killed | grep -q tmp; then fail "left over: $(ls killed)"; fi
# without --resume: afresh
works "${job[@]}" -o killed
[[ $(scored killed) == "$(scored one)" ]] || fail "a second run re-used $(scored killed)"
same one killed

# ---- Ctrl-C --------------------------------------------------------------------------------------
interrupt() { # FOLDER: sends SIGINT once something was found; $status
    (trap - INT; exec "$program" "${job[@]}" -o "$1" > out 2> err) & pid=$!
    wait_for "$1/policy.json" "$pid"
    kill -INT "$pid" 2> waiting
    wait "$pid"
    status=$?
}
# a shell's background job ignores SIGINT unless job control is on
set -m
interrupt stopped
[[ $status == 0 ]] || fail "interrupted: exit status $status: $(cat err)"
complete stopped
says stopped/results.json '"cancelled": true'
works "${job[@]}" -o stopped --resume
same one stopped
grep -q '"cancelled"' stopped/results.json && fail "the resumed run is still called cancelled"

# the smallest model within a drop: the search that has begun is delivered, too
drop=(quantize "$root/examples/glyphs.onnx" --data builtin:glyphs --limit 2000 --calib 24 --weight-bits 2,3,4,6 --ptq none
    --quiet --search "genetic:population=40,iterations=1000")
(trap - INT; exec "$program" "${drop[@]}" --max-drop 5 -o within > out 2> err) & pid=$!
wait_for within/policy.json "$pid"
kill -INT "$pid" 2> waiting
wait "$pid"
status=$?
[[ $status == 0 ]] || fail "interrupted with --max-drop: exit status $status: $(cat err)"
complete within
says within/results.json '"cancelled": true'

# before anything was found
("$program" "${job[@]}" --calib 20000 -o early > out 2> err) & pid=$!
for ((i = 0; i < 300; i++)); do [[ -d early ]] && break; sleep 0.01; done
kill -INT -- "-$pid"
wait "$pid"
status=$?
[[ $status == 1 ]] || fail "interrupted early: exit status $status: $(cat err)"
says err "stopped on request"
[[ ! -e early/model.onnx ]] || fail "interrupted early: a model was written"
set +m

# ---- time limit ----------------------------------------------------------------------------------
start=$SECONDS
works quantize "$root/examples/glyphs.onnx" --data builtin:glyphs --limit 128 --calib 32 --quiet \
    --avg-bits 3.5 --search "genetic:iterations=100000,population=40" --time-limit 1s -o limited
((SECONDS - start < 30)) || fail "--time-limit 1s took $((SECONDS - start)) s"
complete limited
says limited/results.json '"met": true'

if ((failures)); then
    echo "$failures failures"
    exit 1
fi
echo "interrupted runs lose nothing"
