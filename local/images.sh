#!/bin/sh
# Builds the images of the worker and of the local API and ticker. What pip brings is fetched here,
# for the Python of the base image, so that the builds need no network.
set -eu
cd "$(dirname "$0")/.."
exec >&2

DOCKERFILE=worker/Dockerfile
WHEELS=.build/wheels

argument() {
    sed -n "s/^ARG $1=//p" "$DOCKERFILE"
}

BASE=${BASE:-$(argument BASE)}
WORKER_IMAGE=${WORKER_IMAGE:-scheduler-worker:dev}
LOCAL_IMAGE=${LOCAL_IMAGE:-scheduler-local:dev}

# A build without `make images` is to fetch anew what the requirements then ask for.
trap 'rm -rf .build' EXIT
trap 'exit 143' INT TERM

fetch_wheels() {
    target=$(docker run --rm --network=none --entrypoint python3 "$BASE" -c \
        'import platform, sys; print("%d.%d" % sys.version_info[:2], platform.machine())')
    python=${target% *} machine=${target#* }
    echo "images: wheels for Python $python on $machine ..."
    rm -rf "$WHEELS"
    mkdir -p "$WHEELS"
    grep -E "^($(argument LOCAL_PACKAGES))==" requirements-dev.txt >"$WHEELS/local.txt"
    .venv/bin/python -m pip download --quiet --no-input --disable-pip-version-check \
        --no-deps --only-binary=:all: --python-version "$python" \
        --platform "manylinux_2_28_$machine" --platform "manylinux_2_17_$machine" \
        --platform "manylinux2014_$machine" \
        --dest "$WHEELS" -r requirements.txt -r "$WHEELS/local.txt"
}

build() {
    echo "images: $2 ..."
    docker build --quiet --network=none --file "$DOCKERFILE" \
        --build-arg "BASE=$BASE" --target "$1" --tag "$2" .
}

fetch_wheels
build local "$LOCAL_IMAGE"
build worker "$WORKER_IMAGE"
