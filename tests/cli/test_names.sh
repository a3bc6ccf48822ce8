#!/usr/bin/env bash
# File names are lower case and unique in the repository (a name is an address); sources stay short:
# a warning over 600 lines, a failure over 800.
set -euo pipefail
root=$2

list() { # FOLDER...: the files in those that exist
    find "$@" -type f 2>/dev/null | sort || true
}

# Prints "error: …" and "warning: …" lines for the tree $1.
inspect() {
    (
        cd "$1"
        # Every folder has its README.md; results are data.
        list src include cli tests bench examples scripts cmake docs |
            grep -vE '^bench/results/|/README\.md$|/CMakeLists\.txt$|/__pycache__/|~$' |
            awk -F/ '{
                if ($NF in seen) printf "error: %s and %s have the same name\n", seen[$NF], $0
                else seen[$NF] = $0
                if ($NF ~ /\.(c|h|def|sh|py)$/ && $NF ~ /[A-Z]/)
                    printf "error: %s: file names are lower case\n", $0
            }'
        list src include cli tests examples bench scripts | awk '/\.(c|h|sh|py)$/' |
            while read -r file; do
                lines=$(wc -l < "$file")
                if ((lines > 800)); then
                    echo "error: $file has $lines lines; split it (at most ~600)"
                elif ((lines > 600)); then
                    echo "warning: $file has $lines lines (at most ~600)"
                fi
            done
    )
}

found=$(inspect "$root")
if [[ -n $found ]]; then printf '%s\n' "$found"; fi
if [[ $found == *error:* ]]; then exit 1; fi

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/src/a" "$tree/src/b"
expect() { # WORD: the tree must cause this complaint
    local got
    got=$(inspect "$tree")
    [[ $got == *"$1"* ]] || { echo "self test: wanted '$1', got '$got'"; exit 1; }
}
touch "$tree/src/a/one.c" "$tree/src/b/one.c"
expect 'have the same name'
mv "$tree/src/b/one.c" "$tree/src/b/Two.c"
expect 'lower case'
rm "$tree/src/b/Two.c"
[[ -z $(inspect "$tree") ]] || { echo "self test: complains about a clean tree"; exit 1; }
seq 601 > "$tree/src/a/one.c"
expect 'warning:'
seq 801 > "$tree/src/a/one.c"
expect 'error: src/a/one.c has 801 lines'
echo "names are unique and files are short"
