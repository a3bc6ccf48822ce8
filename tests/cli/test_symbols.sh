#!/usr/bin/env bash
# What the library's objects define and call:
#   - symbols that a shared library would export start with nb_; other global ones with nbi_, nbk_
#     or nb_ (onnx.pb-c, which protobuf-c generates, may name its own, but exports nothing);
#   - nothing prints, exits or aborts;
#   - kernels/ref (nbk_*) calls nothing but itself and what compilers emit by themselves.
set -euo pipefail
build=$(dirname "$1")

if [[ -e $build/libnibble.a ]]; then
    table=$(readelf -sW "$build/libnibble.a")
    kind=archive
elif [[ -e $build/libnibble.so ]]; then
    table=$(readelf --dyn-syms -W "$build/libnibble.so")
    kind=shared
else
    echo "no libnibble.a or libnibble.so in $build"
    exit 1
fi

# Reads readelf's table; prints one line per violation. `kind` shared: the exported names alone.
violations() {
    awk -v kind="$1" '
    BEGIN {
        split("printf vprintf puts putchar putc perror __printf_chk __vprintf_chk exit _exit _Exit " \
              "quick_exit abort stdout stderr", list, " ")
        for (i in list) forbidden[list[i]] = 1
    }
    /^File: / {
        object = $2
        sub(/^.*\(/, "", object)
        sub(/\)$/, "", object)
        next
    }
    $1 !~ /^[0-9]+:$/ || NF < 8 { next }
    {
        name = $8
        sub(/@.*/, "", name)
        is_generated = object ~ /pb-c/
        # reserved names: sanitizers, compilers
        if ($5 != "GLOBAL" && $5 != "WEAK" || name ~ /^(__|\.|_GLOBAL_)/ && !(name in forbidden)) next
        if ($7 == "UND") {
            if (kind == "shared") next
            if (!is_generated && name in forbidden) print object ": uses " name
            if (object ~ /^nbk_/ && name !~ /^(nbk_.*|memcpy|memset|memmove|memcmp)$/)
                print object ": a reference kernel uses " name
            next
        }
        seen++
        if ($6 == "DEFAULT" && name !~ /^nb_/ && name !~ /^(_init|_fini|_edata|_end)$/)
            print object ": exports " name " (want nb_…)"
        else if (name !~ /^(nb_|nbi_|nbk_)/ && !is_generated && kind != "shared")
            print object ": global " name " (want nb_…, nbi_… or nbk_…)"
    }
    END { if (!seen) print "no symbol was found: this check checks nothing" }'
}

found=$(violations "$kind" <<<"$table")
if [[ -n $found ]]; then
    printf '%s\n' "$found"
    exit 1
fi

# The check itself can fail: made-up rows, each with a word that must appear ("-": none).
while IFS='|' read -r object symbol word; do
    got=$(printf 'File: libnibble.a(%s)\n 1: 0 1 FUNC GLOBAL HIDDEN 1 nbi_fine\n 2: 0 1 FUNC %s\n' \
        "$object" "$symbol" | violations archive)
    if [[ $word == - && -n $got ]] || [[ $word != - && $got != *"$word"* ]]; then
        printf 'self test: %s %s: wanted "%s", got "%s"\n' "$object" "$symbol" "$word" "$got"
        exit 1
    fi
done <<'T'
a.c.o|GLOBAL DEFAULT 1 nb_graph_load|-
a.c.o|GLOBAL DEFAULT 1 nbi_graph_load|exports nbi_graph_load
a.c.o|GLOBAL HIDDEN 1 graph_load|global graph_load
a.c.o|GLOBAL DEFAULT UND printf|uses printf
a.c.o|GLOBAL DEFAULT UND stderr|uses stderr
a.c.o|GLOBAL DEFAULT UND malloc|-
nbk_conv.c.o|GLOBAL DEFAULT UND malloc|a reference kernel uses malloc
onnx.pb-c.c.o|GLOBAL HIDDEN 1 onnx__model_proto__init|-
onnx.pb-c.c.o|GLOBAL DEFAULT UND abort|-
T
echo "symbols are as they should be ($kind)"
