#!/usr/bin/env bash
# Who may include whom (docs/architecture.md, "Rooms"). The room of a file is its folder under src/.
# Walks every #include of src/, include/, cli/ and examples/; then proves on a made-up tree that
# each rule can fail.
set -euo pipefail
source_dir=$2

# Prints "file:line: what is wrong" for each violation in the tree $1.
violations() {
    local root=$1
    (cd "$root" && { find src include cli examples -name '*.[ch]' 2>/dev/null || true; } | sort |
        xargs -r awk '
    BEGIN {
        split("base kernels linalg ir schemes ops exec onnx passes data train quant runtime codegen hyper " \
              "search report api", room, " ")
        split("0 1 2 3 4 5 6 7 7 7 8 9 10 11 11 12 13 14", rank, " ")
        for (i in room) rank_of[room[i]] = rank[i] + 0
        # headers that one place alone may see: pattern, who
        n = 0
        only[++n] = "^dnnl";               who[n] = "^src/linalg/onednn(_train\\.c|_parts\\.h|\\.c)$"
        only[++n] = "^omp\\.h$";           who[n] = "^src/base/threads\\.c$"
        only[++n] = "^mpi\\.h$";            who[n] = "^src/base/team_mpi\\.c$"
        only[++n] = "^onnx\\.pb-c\\.h$";   who[n] = "^src/onnx/"
        only[++n] = "^protobuf-c/";        who[n] = "^src/onnx/"
        only[++n] = "^sqlite3\\.h$";       who[n] = "^(src/search/|src/api/)"
        only[++n] = "^[a-z]*mmintrin\\.h$";who[n] = "^src/(kernels/x86/|linalg/wino_avx2\\.c$)"
        only[++n] = "^cpuid\\.h$";         who[n] = "^src/kernels/"
        only[++n] = "^arm_[a-z]*\\.h$";    who[n] = "^src/kernels/arm/"
    }
    function bad(text) { printf "%s:%d: %s\n", FILENAME, FNR, text }
    function room_of(path,   part) {
        if (path ~ /^src\/api\.c$/) return "api"
        split(path, part, "/")
        return part[2]
    }
    /^[ \t]*#[ \t]*pragma[ \t]+omp/ && FILENAME != "src/base/threads.c" {
        bad("OpenMP belongs to src/base/threads.c alone")
    }
    /^[ \t]*#[ \t]*include/ {
        quoted = $0 ~ /include[ \t]*"/
        name = $0
        sub(/^[^"<]*["<]/, "", name)
        sub(/[">].*$/, "", name)
        for (i = 1; i <= n; i++)
            if (name ~ only[i] && FILENAME !~ who[i]) bad("<" name "> may not be seen here")
        if (FILENAME ~ /^include\//) {
            if (quoted || name ~ /^nibble\//) bad("the public header includes \"" name "\"")
            next
        }
        if (FILENAME ~ /^(cli|examples)\//) {
            here = FILENAME
            sub(/[^\/]*$/, "", here)
            if (quoted && system("test -e \"" here name "\"") != 0)
                bad("\"" name "\": only <nibble/nibble.h> and headers of this folder are allowed")
            else if (!quoted && name ~ /^nibble\// && name != "nibble/nibble.h")
                bad("<" name ">: only <nibble/nibble.h> is public")
            next
        }
        from = room_of(FILENAME)
        if (!(from in rank_of)) { bad("unknown room \"" from "\""); next }
        if (FILENAME ~ /^src\/kernels\/ref\//) {
            if (name != "nbk.h" && name != "stdint.h" && name != "stddef.h")
                bad("kernels/ref is freestanding: nbk.h, stdint.h and stddef.h only, not " name)
            next
        }
        if (!quoted || name == "onnx.pb-c.h") next
        if (name !~ /\//) { bad("\"" name "\": includes are written from src/ (\"room/file.h\")"); next }
        to = name
        sub(/\/.*/, "", to)
        if (!(to in rank_of)) bad("\"" name "\": unknown room")
        else if (to != from && rank_of[to] >= rank_of[from])
            bad("room " from " may not include room " to)
    }' 2>&1)
}

found=$(violations "$source_dir")
if [[ -n $found ]]; then
    printf '%s\n' "$found" "who may include whom: docs/architecture.md"
    exit 1
fi

# Each line: file, text, and a word of the complaint that it must cause ("-": none).
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
checks=0
while IFS='|' read -r file text word; do
    rm -rf "${tree:?}"/*
    mkdir -p "$tree/$(dirname "$file")" "$tree/src" "$tree/include" "$tree/cli" "$tree/examples"
    : > "$tree/cli/cli.h"
    printf '%s\n' "$text" > "$tree/$file"
    got=$(violations "$tree")
    if [[ $word == - && -n $got ]] || [[ $word != - && $got != *"$word"* ]]; then
        printf 'self test: %s with %s: wanted "%s", got "%s"\n' "$file" "$text" "$word" "$got"
        exit 1
    fi
    checks=$((checks + 1))
done <<'T'
src/base/a.c|#include "base/base.h"|-
src/base/a.c|#include "ir/graph.h"|room base may not include room ir
src/ir/a.h|#include "kernels/kernels.h"|-
src/schemes/a.c|#include "ir/scheme.h"|-
src/schemes/a.c|#include "ops/op.h"|room schemes may not include room ops
src/onnx/a.c|#include "data/data.h"|room onnx may not include room data
src/onnx/a.c|#include "onnx.pb-c.h"|-
src/exec/a.c|#include "onnx.pb-c.h"|may not be seen here
src/codegen/a.c|  #  include "hyper/hyper.h"|room codegen may not include room hyper
src/api.c|#include "report/report.h"|-
src/ops/a.c|#include "op.h"|written from src/
src/ops/a.c|#include <dnnl.h>|may not be seen here
src/linalg/onednn.c|#include <dnnl.h>|-
src/exec/a.c|#include <omp.h>|may not be seen here
src/exec/a.c|#pragma omp parallel for|OpenMP belongs
src/ops/a.c|#include <immintrin.h>|may not be seen here
src/linalg/wino_avx2.c|#include <immintrin.h>|-
src/kernels/ref/a.c|#include <string.h>|freestanding
src/kernels/ref/a.c|#include "nbk.h"|-
src/kernels/a.c|#include "kernels/ref/nbk.h"|-
src/attic/a.c|#include "base/base.h"|unknown room
cli/a.c|#include "base/base.h"|only <nibble/nibble.h>
cli/a.c|#include "cli.h"|-
cli/a.c|#include <nibble/inner.h>|is public
examples/a.c|#include <nibble/nibble.h>|-
include/nibble/nibble.h|#include "base/base.h"|the public header
T
echo "layers hold; $checks rules tried"
