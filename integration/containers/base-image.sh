#!/usr/bin/env bash
# Makes a container image from packages of this machine's distribution (Debian or one of its kind), where no image
# registry can be reached: base-image.sh IMAGE PACKAGE…
# It has these packages and what they depend on, with a shell, laid out as the distribution does; their scripts are not
# run. Needs apt and Docker, and no other rights than Docker's.
set -euo pipefail

[ $# -ge 2 ] || { echo "usage: base-image.sh IMAGE PACKAGE..." >&2; exit 2; }
image="$1"
shift
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# As on a machine where nothing is installed: so everything that is depended on is fetched.
mkdir -p "$work/cache/archives/partial" "$work/lists/partial" "$work/root"
: >"$work/status"
apt=(apt-get --quiet=2 --yes -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache"
    -o Debug::NoLocking=true -o APT::Sandbox::User="$(id -un)")
fetch() {
    "${apt[@]}" --no-install-recommends --download-only install base-files base-passwd dash "$@" >&2
}
if ! fetch "$@"; then
    echo "this machine's package lists are missing or old: new ones are fetched" >&2
    apt+=(-o Dir::State::lists="$work/lists")
    "${apt[@]}" update >&2
    fetch "$@"
fi

root="$work/root"
for directory in bin sbin lib lib64; do
    mkdir -p "$root/usr/$directory"
    ln -s "usr/$directory" "$root/$directory"
done
for package in "$work"/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$root" --keep-directory-symlink
done
# What the packages' scripts would do of it.
[ -e "$root/bin/sh" ] || ln -s dash "$root/bin/sh"
[ ! -e "$root/usr/bin/mawk" ] || ln -sf mawk "$root/usr/bin/awk"
[ ! -e "$root/usr/bin/gcc" ] || ln -sf gcc "$root/usr/bin/cc"
cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"

# Images that are made of this one have the label too, so that they can be found and removed.
tar -C "$root" -c --numeric-owner --owner=0 --group=0 . |
    docker import --change "LABEL kith.made-from-packages=$image" --change "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
        - "$image" >/dev/null
