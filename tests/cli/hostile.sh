# Sourced by the tests of bad input: makes ONNX files byte by byte, as hexadecimal text.
varint() {
    local n=$1 hex=""
    while ((n > 127 || n < 0)); do
        hex+=$(printf '%02x' $((n & 127 | 128)))
        n=$((n >> 7 & 0x01ffffffffffffff))
    done
    printf '%s%02x' "$hex" "$n"
}
number() { # FIELD N
    varint $(($1 << 3))
    varint "$2"
}
message() { # FIELD HEX
    varint $(($1 << 3 | 2))
    varint $((${#2} / 2))
    printf '%s' "$2"
}
text() { # FIELD TEXT
    local hex="" i
    for ((i = 0; i < ${#2}; i++)); do hex+=$(printf '%02x' "'${2:i:1}"); done
    message "$1" "$hex"
}
node() { # OP NAME INPUTS OUTPUTS [ATTRIBUTES]
    local hex="" x
    for x in $3; do hex+=$(text 1 "$x"); done
    for x in $4; do hex+=$(text 2 "$x"); done
    hex+=$(text 3 "$2")$(text 4 "$1")${5:-}
    message 1 "$hex"
}
value() { # FIELD NAME DIMS: 11 a graph input, 12 a graph output; float32
    local dims="" d
    for d in $3; do dims+=$(message 1 "$(number 1 "$d")"); done
    message "$1" "$(text 1 "$2")$(message 2 "$(message 1 "$(number 1 1)$(message 2 "$dims")")")"
}
tensor() { # FIELD NAME DIMS FLOATS-AS-HEX
    local dims="" d
    for d in $3; do dims+=$(number 1 "$d"); done
    message "$1" "$dims$(number 2 1)$(text 8 "$2")$(message 9 "$4")"
}
model() { # GRAPH-HEX: a whole file on stdout
    local hex
    hex=$(number 1 7)$(message 7 "$(text 2 g)$1")$(message 8 "$(number 2 13)")
    # shellcheck disable=SC2059
    printf "$(sed 's/../\\x&/g' <<< "$hex")"
}
