# Sourced by scripts/install and scripts/deb: a virtual environment that is made in one place and used in another.
# shellcheck shell=bash
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$project"
python=$(command -v "${PYTHON:-python3}") || { echo "PYTHON=${PYTHON:-python3} is no program" >&2; exit 69; }

say() { echo "${0##*/}: $*" >&2; }
fail() { say "$*"; exit 1; }

# usable_python: refuses an interpreter that cannot run the daemon, with what to do about it.
usable_python() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is older than Python 3.11; set PYTHON"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python makes no virtual environments (Debian: apt-get install python3-venv)"
    case $("$python" -c 'import sys; print(sys.base_prefix)') in
    /root | /root/* | /home/* | /run/user/*)
        say "$python is in a home directory, which the service cannot see; set PYTHON=/usr/bin/python3"
        return 1
        ;;
    esac
}

# settings: the config file of an installation; ingestd in a shell finds the state that systemd gives to the daemon.
settings() {
    sed 's|^state_directory: null$|state_directory: /var/lib/ingestd|' config.yaml
}

# fingerprint: of all that goes into a release.
fingerprint() {
    {
        "$python" -c 'import sys; print(sys.version, sys.base_prefix)'
        find pyproject.toml README.md config.yaml docs ingestd systemd scripts/_release.sh -type f -not -name '*.pyc' -print0 |
            LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum | cut -c1-12
}

# release STAGED FINAL: ingestd in a virtual environment that is in STAGED and will be used as FINAL. With LIBRARIES=DIR
# what it needs is taken from there instead of the package registry: quick, and of use on this machine only.
release() {
    local staged=$1 final=$2 site
    if [ -z "${LIBRARIES:-}" ]; then
        "$python" -m venv --clear "$staged"
        "$staged/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile .
        "$staged/bin/python" -m pip uninstall --quiet --yes --disable-pip-version-check pip setuptools 2>/dev/null
    else
        "$python" -m venv --clear --without-pip "$staged"
        "$python" -m pip --python "$staged/bin/python" install --quiet --disable-pip-version-check --no-compile --no-deps .
    fi
    site=$("$staged/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    [ -z "${LIBRARIES:-}" ] || echo "$LIBRARIES" > "$site/libraries.pth"
    # Where it was made is nobody's business, and is gone tomorrow.
    rm -f "$site"/ingestd-*.dist-info/direct_url.json
    find "$staged/pyvenv.cfg" "$staged/bin" -type f -exec sed -i "s|$staged|$final|g" {} +
    "$staged/bin/python" -m compileall -q -s "$staged" -p "$final" "$staged/lib"
    install -d "$staged/share/doc"
    install -m 644 README.md CHANGELOG.md LICENSE config.yaml docs/*.md "$staged/share/doc/"
    if [ -d docs/monitoring ]; then
        install -d "$staged/share/monitoring"
        install -m 644 docs/monitoring/* "$staged/share/monitoring/"
    fi
}
