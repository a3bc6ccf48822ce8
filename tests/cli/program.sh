# Sourced by the tests that run the program (PROGRAM SOURCE-FOLDER [DATA]): a work folder of their own,
# which goes when they end, and checks that count failures. Ends with: exit $((failures > 0))
program=$1 root=$2 data=${3-}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
# waiting threads take nothing from the other tests
export LC_ALL=C OMP_WAIT_POLICY=passive
failures=0
fail() {
    echo "FAIL: $*"
    failures=$((failures + 1))
}

# refuses STATUS TEXT ARGS...: exit STATUS and exactly one error line, which holds TEXT; warnings
# and progress do not count, the hint after wrong usage neither. $out and $err are left.
refuses() {
    local want=$1 text=$2 got lines
    shift 2
    timeout 60 "$program" "$@" > out 2> err
    got=$?
    [[ $got == "$want" ]] || fail "nibble $*: exit status $got, want $want: $(head -c 400 err)"
    lines=$(grep '^nibble: ' err | grep -vcE '^nibble: (warning: |[a-z ]+: [0-9]+( of |$))')
    [[ $lines == 1 ]] || fail "nibble $*: $lines error lines: $(head -c 600 err)"
    grep '^nibble: ' err | grep -qF -e "$text" || fail "nibble $*: '$text' is not in: $(cat err)"
    if grep -vE '^(nibble: |see )' err | grep -q .; then fail "nibble $*: strange lines: $(cat err)"; fi
}
works() { # ARGS...
    timeout 120 "$program" "$@" > out 2> err || fail "nibble $*: exit status $?: $(head -c 400 err)"
}
# run STATUS ARGS...: the program must exit with STATUS; leaves out and err.
run() {
    local want=$1 got
    shift
    "$program" "$@" > out 2> err
    got=$?
    [[ $got == "$want" ]] || fail "nibble $*: exit status $got, want $want ($(head -c 400 err))"
}
wait_for() { # FILE PID: until the file is there or the process has gone, a minute at most
    local i
    for ((i = 0; i < 6000; i++)); do
        [[ -s $1 ]] && return
        kill -0 "$2" 2> waiting || return
        sleep 0.01
    done
}
# killed FILE ARGS...: kill -9 as soon as the file is there, or $after seconds later
killed() {
    local file=$1 pid
    shift
    "$program" "$@" > out 2> err & pid=$!
    wait_for "$file" "$pid"
    sleep "${after-0}"
    kill -9 "$pid" 2> waiting || echo "note: the run ended before it could be killed"
    wait "$pid" 2> waiting
}
# interrupted TEXT ARGS...: Ctrl-C once TEXT is in its messages; it must end by itself, with 0.
interrupted() {
    local text=$1 pid status i
    shift
    "$program" "$@" > out 2> err & pid=$!
    for ((i = 0; i < 6000; i++)); do
        grep -q -e "$text" err && break
        sleep 0.01
    done
    kill -INT "$pid" 2> waiting
    wait "$pid"
    status=$?
    [[ $status == 0 ]] || fail "Ctrl-C: nibble $*: exit status $status ($(tail -c 300 err))"
}
says() { # FILE TEXT [WHY]: the file must hold the text
    grep -qF -e "$2" "$1" || fail "${*:3}: '$2' is not in $1: $(head -c 400 "$1")"
}
