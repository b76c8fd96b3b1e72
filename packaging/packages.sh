#!/bin/sh
# Install the Debian packages CFS needs, with `test` also what its tests use; silent when they are
# there. Uses sudo when not root.
set -eu
packages="python3 python3-venv python3-dev gcc pkg-config libfuse3-dev fuse3"
[ "${1:-}" = test ] && packages="$packages git make tar rsync acl attr dbench e2fsprogs mount iproute2 nftables xfsprogs"
need=""
for package in $packages; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || need="$need $package"
done
[ -n "$need" ] || exit 0
as_root=""
[ "$(id -u)" -eq 0 ] || as_root=sudo
echo "installing:$need"
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $need >/dev/null
