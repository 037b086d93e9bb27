#!/bin/sh
# Installs the Debian packages of packages.txt that are missing: install-deps.sh [--check] GROUP...
# --check: installs nothing; exits 1 and names what is missing. Silent and instant when nothing is.
set -eu

list=$(dirname "$0")/../packages.txt
check=no
if [ "${1-}" = --check ]; then
    check=yes
    shift
fi
[ $# -gt 0 ] || { echo "usage: install-deps.sh [--check] build|test|data|bench|format ..." >&2; exit 64; }

wanted=$(awk -v groups=" $* " '!/^#/ && NF >= 2 && index(groups, " " $1 " ") { print $2 }' "$list")
if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "install-deps: no dpkg here, so this is not checked; Debian's names of what is needed:" $wanted >&2
    exit 0
fi
# "ii" is installed; dpkg-query complains about unknown names on stderr, and they are missing then
have=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' $wanted 2>/dev/null | awk '$1 == "ii" { print $2 }')
missing=
for package in $wanted; do
    case "
$have
" in *"
$package
"*) ;; *) missing="$missing $package" ;; esac
done
[ -n "$missing" ] || exit 0

if [ $check = yes ]; then
    echo "missing packages:$missing (make deps installs them)" >&2
    exit 1
fi
root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "install-deps: as root, run: apt-get install --no-install-recommends$missing" >&2
        exit 1
    fi
    root=sudo
fi
echo "installing:$missing"
install()
{
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
}
ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 && install || { $root apt-get update -qq && install; }
