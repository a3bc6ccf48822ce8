#!/usr/bin/env bash
# How the program is called: help names every option of its tables, wrong usage exits 2 with a hint,
# a missing file exits 1 with one line, --json prints one object. No numerics.
set -uo pipefail
# shellcheck source=tests/cli/program.sh
. "$2/tests/cli/program.sh"
silent() {
    [[ ! -s $1 ]] || fail "${*:2}: $1 is not empty: $(head -c 300 "$1")"
}

# One JSON object? Strings become ", other scalars #, then brackets are folded from inside: objects
# to @, lists to #.
is_object() {
    tr '\n' ' ' < "$1" | sed -E -e 's/"([^"\\]|\\.)*"/"/g' -e 's/[#@]/!/g' -e 's/ //g' \
        -e 's/-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?|true|false|null/#/g' \
        -e ':fold' -e 's/\{((":["#@],)*":["#@])?\}/@/g' -e 't fold' \
        -e 's/\[((["#@],)*["#@])?\]/#/g' -e 't fold' | grep -qx @
}
check_json() { # TEXT yes|no
    printf '%s\n' "$1" > sample
    if is_object sample; then [[ $2 == yes ]]; else [[ $2 == no ]]; fi || fail "self test: $1"
}
check_json '{"a": [1, -2.5e3, {}], "b": {"c\"}": null}}' yes
check_json '{}' yes
check_json '{"a": [[1, 2], {"b": []}], "c": 0.5e-7}' yes
check_json '[1]' no
check_json '{"a": @}' no
check_json '{"a": 1, 2}' no
check_json '{"a": nan}' no
check_json '{"a": 1,}' no
check_json '{"a": 1}{"b": 2}' no
check_json 'words {"a": 1}' no

# The names in the option tables of a source file.
options_of() {
    sed -nE "s/^    \{\"([a-z0-9-]+)\", ('.'|0), .*/\1/p" "$1"
}
# The same, of one table.
table_of() { # FILE TABLE
    sed -n "/^const opt $2\[\]/,/^};/p" "$1" > table
    options_of table
}

run 0
says out quantize "no arguments"
run 0 --help
cp out overview
run 0 help
cmp -s out overview || fail "'nibble help' differs from 'nibble --help'"
run 0 --version
says out "nibble " --version
[[ $(wc -l < out) -ge 2 ]] || fail "--version does not name the libraries"

commands=$(sed -nE 's/^    \{"([a-z-]+)", cmd_[a-z_]+, .*/\1/p' "$root/cli/main.c")
[[ $(wc -w <<< "$commands") -ge 9 ]] || fail "too few commands found in main.c: $commands"
for command in $commands; do
    says overview "  $command " "the overview"
    source=$root/cli/cmd_${command//-/_}.c
    names="$(options_of "$source") $(options_of "$root/cli/cli_options.c")"
    if grep -q CLI_DATA_GROUP "$source"; then
        names+=" $(table_of "$root/cli/cli_groups.c" cli_data_options)"
    fi
    if grep -q CLI_SPLIT_GROUP "$source"; then
        names+=" $(table_of "$root/cli/cli_groups.c" cli_split_options)"
    fi
    if grep -q CLI_CHOICE_GROUP "$source"; then
        names+=" $(table_of "$root/cli/cli_groups.c" cli_choice_options)"
    fi
    [[ $(wc -w <<< "$names") -ge 6 ]] || fail "$command: too few options found: $names"
    run 0 "$command" --help
    silent err "$command --help"
    for name in $names; do says out " --$name" "$command --help"; done
    awk 'length($0) > 79 { exit 1 }' out || fail "$command --help is wider than 79 columns"
    cp out help
    run 0 help "$command"
    cmp -s out help || fail "'nibble help $command' differs from 'nibble $command --help'"
    run 2 "$command" --thraeds 2
    says err "did you mean '--threads'?" "$command"
    says err "see 'nibble $command --help'" "$command"
    silent out "$command with a wrong option"
    run 2 "$command" --threads
    run 2 "$command" --threads many
    run 2 "$command" --threads 100000
    run 2 "$command" --json=yes
    run 2 "$command" one two three four
    run 2 "$command" --quiet --verbose one two
done

# what a command does not run without stands in its usage
for command in eval sensitivity compare quantize; do
    run 0 "$command" --help
    head -1 out | grep -q -e '--data PATH' || fail "$command: $(head -1 out)"
done

run 2 quantise
says err "did you mean 'quantize'?" "unknown command"
says err "nibble --help" "unknown command"
run 2 xyzzy
if grep -q 'did you mean' err; then fail "a hint for xyzzy"; fi
run 2 help xyzzy
run 2 --verison
says err "did you mean '--version'?" "unknown option"

# wrong values
run 2 quantize m.onnx -o out --max-size 64Q
says err 64K "a wrong size"
run 2 quantize m.onnx -o out --max-size -1
run 2 quantize m.onnx -o out --compression 16y
run 2 quantize m.onnx -o out --time-limit 10parsecs
says err 10m "a wrong duration"
run 2 quantize m.onnx -o out --max-drop nan
run 2 quantize m.onnx -o out --trials 1.5
run 2 quantize m.onnx -o out --max-drop half
run 2 quantize m.onnx -o out --for onxx
says err "did you mean 'onnx'?" "a wrong choice"
run 2 quantize m.onnx -o out --policy p.json --search uniform
run 2 quantize m.onnx -o out --policy p.json --rule '.*:4,8'
says err "--rule exclude each other" "a rule beside a policy"
run 2 quantize m.onnx -o out --policy p.json --trials 5
says err "--trials exclude each other" "trials beside a policy"
run 2 quantize m.onnx
says err --output "quantize without a folder"
run 2 eval m.onnx
says err --data "eval without data"
run 2 sensitivity m.onnx
run 2 train m.onnx -o x.onnx --epochs 1
says err --data "train without data"
run 2 train m.onnx --data d --epochs 1
says err --output "train without an output"
run 2 train m.onnx --data d -o x.onnx
says err --epochs "train without epochs"
run 2 train m.onnx --data d -o x.onnx --epochs 1 --optimizer adamm
says err "did you mean 'adam'?" "a wrong optimizer"
run 2 new resnet8
says err --output "new without an output"
run 2 new resnet9 -o x.onnx
says err resnet8 "an unknown architecture"
run 2 new resnet8 -o x.onnx --input 3x32
says err "3 numbers" "an input without width"
run 2 compare m.onnx
run 2 export m.onnx -o x
says err --to "export without a format"
run 2 run m.onnx --input
run 2 eval m.onnx --engine interger --data x
says err "did you mean 'integer'?" "a wrong engine"

# a model that is not there
missing() { # ARGS...
    run 1 "$@"
    silent out "$*"
    [[ $(wc -l < err) == 1 ]] || fail "$*: not one line: $(cat err)"
    says err "nibble: " "$*"
    says err no-such-model.onnx "$*"
}
missing info no-such-model.onnx
missing run no-such-model.onnx --input x.npy
missing bench no-such-model.onnx
missing eval no-such-model.onnx --data builtin:glyphs
missing sensitivity no-such-model.onnx -d builtin:glyphs
missing quantize no-such-model.onnx --data builtin:glyphs -o out
missing quantize no-such-model.onnx --dry-run --threads 1 --seed=7 --max-size 1.5M --compression 16x \
    --time-limit 10m --max-latency 2ms
missing export --to c -o c -- no-such-model.onnx
missing compare no-such-model.onnx no-such-model.onnx --data builtin:glyphs
run 1 info no-such-model.onnx --json
is_object out || fail "info --json of a missing model: $(cat out)"
run 2 bench --json --layers m.onnx
is_object out || fail "--json of wrong usage: $(cat out)"
says out "bench has no option '--layers" "wrong usage"
run 2 bench --layers m.onnx
[[ ! -s out ]] || fail "wrong usage on stdout: $(cat out)"

# list
kinds="ops steps schemes searches costs kernels readers formats architectures"
run 0 list
cp out everything
for kind in $kinds; do
    grep -qx "$kind" everything || fail "list leaves out $kind"
    run 0 list "$kind"
    says out "$kind" "list $kind"
    [[ $(wc -l < out) -ge 2 ]] || fail "list $kind is empty"
    run 0 list "$kind" --json
    is_object out || fail "list $kind --json: $(head -c 300 out)"
    says out "\"$kind\"" "list $kind --json"
done
run 0 list searches # what it prints is what the parser takes
says out "      meta  a trained one" "list searches"
says out "      context=1  " "list searches"
says out "(1|3|all)" "list searches"
says out "      weights=generated  " "list searches"
says out "      seeded=yes  " "list searches"
run 0 list --json
is_object out || fail "list --json: $(head -c 300 out)"
run 2 list kernal
says err "did you mean 'kernels'?" "list"

# a result that cannot be written
if [[ -w /dev/full ]]; then
    for args in "" "list" "list --json" "list ops" "help eval"; do
        # shellcheck disable=SC2086
        "$program" $args > /dev/full 2> err
        [[ $? == 1 ]] || fail "nibble $args > /dev/full: no failure"
        says err "standard output" "nibble $args > /dev/full"
    done
fi

if ((failures)); then
    echo "$failures failures"
    exit 1
fi
echo "usage, help, hints and JSON are as they should be"
