#!/bin/sh
# Installs what this checkout needs, inside it: `local/install.sh packages` the Python packages,
# `local/install.sh engine` the embedded engine, `local/install.sh peers` what the benchmark compares
# with and draws by, in a virtual environment of its own. Nothing is done where nothing changed. The stamp
# of an installation is written last, so that one which was interrupted is done again.
set -eu
cd "$(dirname "$0")/.."
exec >&2

PYTHON=${PYTHON:-python3}

fail() {
    echo "install: $*"
    exit 1
}

# Runs a command and takes it along when this script is told to end; a shell would only end itself.
run() {
    "$@" &
    child=$!
    trap 'kill "$child" 2>/dev/null; wait "$child"; exit 143' INT TERM
    wait "$child" || return
    trap - INT TERM
}

check_python() {
    command -v "$PYTHON" >/dev/null ||
        fail "$PYTHON is missing; install Python 3.11 or newer (Debian: apt-get install python3)"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$PYTHON" -V) is too old; 3.11 or newer is needed (choose another by PYTHON=...)"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$PYTHON cannot make virtual environments (Debian: apt-get install python3-venv)"
}

# What an environment was made from: venv, then files.
wanted() {
    venv=$1
    shift
    "$venv/bin/python" -V && cat "$@"
}

# Makes a virtual environment from the last of the files: venv, then files.
install_packages() {
    venv=$1
    for last; do :; done
    if [ -x "$venv/bin/python" ] && wanted "$@" | cmp -s - "$venv/installed"; then
        return
    fi
    check_python
    echo "install: Python packages into $venv (this may take a minute) ..."
    run "$PYTHON" -m venv --clear "$venv" || fail "the virtual environment $venv cannot be made"
    run "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        -r "$last" || fail "pip could not install $last"
    wanted "$@" >"$venv/installed"
}

engine_is_here() {
    for binary in node_modules/@dynoxide/*/dynoxide node_modules/@dynoxide/*/dynoxide.exe; do
        [ -x "$binary" ] && return
    done
    return 1
}

install_engine() {
    if command -v dynoxide >/dev/null; then
        return
    fi
    if engine_is_here && cmp -s package-lock.json node_modules/installed; then
        return
    fi
    command -v npm >/dev/null ||
        fail "npm is missing, which brings the embedded engine (Debian: apt-get install npm);" \
            "or name another store by ENGINE=http://host:port"
    echo "install: the embedded engine into node_modules ..."
    run npm ci --include=optional --ignore-scripts --no-audit --no-fund --no-update-notifier ||
        fail "npm could not install package-lock.json"
    engine_is_here ||
        fail "npm brought no engine for $(uname -sm); put a dynoxide on the PATH," \
            "or name another store by ENGINE=http://host:port"
    cp package-lock.json node_modules/installed
}

case ${1-} in
packages) install_packages .venv requirements.txt requirements-dev.txt ;;
peers) install_packages .venv-bench bench/requirements.txt ;;
engine) install_engine ;;
*) fail "say what: packages, engine or peers" ;;
esac
