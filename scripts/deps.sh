#!/usr/bin/env bash
# Installs what CMakeLists.txt needs on Debian and its kin; asks nothing. Where everything is there
# already, apt is not called. On other systems it says what to install and fails only if something
# is missing.
set -euo pipefail

packages=(gcc libc6-dev make cmake ninja-build pkg-config
    protobuf-c-compiler libprotobuf-c-dev libonnx-dev
    libjansson-dev libzip-dev zlib1g-dev libpng-dev libjpeg-dev libsqlite3-dev
    libcmocka-dev)
optional=(libdnnl-dev) # oneDNN: not built for every architecture

missing_of() { # PACKAGE...: prints those that dpkg does not have
    local p
    for p in "$@"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null) == installed ]] || echo "$p"
    done
}

on_debian() {
    local missing as_root=()
    mapfile -t missing < <(missing_of "${packages[@]}" "${optional[@]}")
    [[ ${#missing[@]} -eq 0 ]] && return 0
    # Without the optional ones a later call must not try them again.
    if [[ -z $(missing_of "${packages[@]}") && -z $(apt-cache madison "${optional[@]}") ]]; then
        return 0
    fi
    [[ $(id -u) -eq 0 ]] || as_root=(sudo)
    export DEBIAN_FRONTEND=noninteractive
    echo "Installing: ${missing[*]}"
    "${as_root[@]}" apt-get update -q </dev/null
    mapfile -t missing < <(missing_of "${packages[@]}")
    local p
    for p in "${optional[@]}"; do
        if [[ -n $(apt-cache madison "$p") ]]; then
            missing+=("$p")
        else
            echo "$p is not available here: building without it"
        fi
    done
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${missing[@]}" </dev/null
}

elsewhere() {
    local absent=() tool module
    for tool in cc cmake pkg-config protoc-c; do
        command -v "$tool" >/dev/null || absent+=("$tool")
    done
    if command -v pkg-config >/dev/null; then
        for module in libprotobuf-c jansson libzip zlib libpng libjpeg sqlite3 cmocka; do
            pkg-config --exists "$module" || absent+=("$module")
        done
    fi
    [[ -e /usr/include/onnx/onnx.proto || -e /usr/local/include/onnx/onnx.proto ]] ||
        absent+=(onnx/onnx.proto)
    [[ ${#absent[@]} -eq 0 ]] && return 0
    cat >&2 <<TXT
nibble needs: a C11 compiler with OpenMP, CMake 3.20 or newer, Ninja or make, pkg-config, protoc-c,
the libraries protobuf-c, jansson, libzip, zlib, libpng, libjpeg, SQLite 3 and cmocka, and ONNX's
schema (onnx/onnx.proto); oneDNN 2.x makes the float engine faster.
Not found here: ${absent[*]}
TXT
    return 1
}

if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
    on_debian
else
    elsewhere
fi
