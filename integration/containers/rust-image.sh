#!/usr/bin/env bash
# Makes what the Dockerfile builds kith with, where no image registry can be reached: rust-image.sh IMAGE BASE [BINARY]
# - With BINARY the image's `cargo` compiles nothing and hands out that very file, and everything else in the Dockerfile
#   is carried out for real. BASE must have coreutils and mawk.
# - Without, the image has this machine's Rust toolchain and the sources of all dependencies, so that the Dockerfile
#   compiles kith; only without link-time optimization, for that takes long. BASE must have gcc and libc6-dev as well.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ $# -eq 2 ] || [ $# -eq 3 ] || { echo "usage: rust-image.sh IMAGE BASE [BINARY]" >&2; exit 2; }
image="$1"
base="$2"
binary="${3:-}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

if [ -n "$binary" ]; then
    # Without what debuggers need, as the Dockerfile has it built.
    strip --strip-debug -o "$work/kith" "$binary"
    cat >"$work/cargo" <<'SH'
#!/bin/sh
set -e
[ "$*" = "build --release --locked --bin kith" ] || { echo "this is no cargo; it can't \`$*\`" >&2; exit 1; }
# As cargo does, which builds nothing if any target's file is missing.
targets="$(awk -F '"' '/^path = / { print $2 }' Cargo.toml)"
for file in src/main.rs src/lib.rs $targets; do
    [ -f "$file" ] || { echo "Cargo.toml names $file, which is not there" >&2; exit 1; }
done
mkdir -p target/release
cp /given/kith target/release/kith
SH
    chmod +x "$work/cargo"
    cat >"$work/Dockerfile" <<DOCKERFILE
FROM $base
COPY cargo /usr/local/bin/cargo
COPY kith /given/kith
DOCKERFILE
else
    cp -r "$(rustc --print sysroot)" "$work/rust"
    rm -rf "$work/rust/share/doc"
    # It prints what tells cargo where they are.
    cargo vendor --locked "$work/vendor" | sed "s|$work/vendor|/vendor|" >"$work/config.toml"
    cat >"$work/Dockerfile" <<DOCKERFILE
FROM $base
ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_HOME=/cargo
ENV CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
COPY rust /usr/local/rust
COPY vendor /vendor
COPY config.toml /cargo/config.toml
DOCKERFILE
fi
docker build --quiet --tag "$image" "$work" >/dev/null
