# shellcheck shell=bash
# What this machine has, and how to ask it for more. Sourced by the scripts beside it, which run at the
# root of the repository; sourcing it only sets up the shell.

# Without this, a command that fails inside $(…) does not end the script.
shopt -s inherit_errexit

# A user's PATH often lacks the folders that dockerd and service live in.
PATH="$PATH:/usr/sbin:/sbin"

# Begins a stage. Where SKYSAIL_STAGES names a file, the time is noted there for print_stages.
say() {
    printf '==> %s\n' "$*" >&2
    [[ -z ${SKYSAIL_STAGES:-} ]] || printf '%s\t%s\n' "$(date +%s)" "$*" >>"$SKYSAIL_STAGES"
}

# Prints how long each stage took, in seconds, and all together.
print_stages() {
    awk -F '\t' -v now="$(date +%s)" '
        NR == 1 { first = $1 }
        NR > 1 { printf "    %5d s  %s\n", $1 - began, stage }
        { began = $1; stage = $2 }
        END { if (NR) printf "    %5d s  %s\n    %5d s  in all\n", now - began, stage, now - first }
    ' "$SKYSAIL_STAGES" >&2
}

warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# Models are made in an environment of their own. Debian's Python lacks what makes one until python3-venv is installed.
python_is_usable() { has python3 && python3 -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 11)' 2>/dev/null; }

# A missing part is a failure, not a skip.
everything_is_required() { [[ ${CI:-} == true || ${SKYSAIL_REQUIRE_ALL:-} == 1 ]]; }

# Asks for a password only where there is somebody to type it.
as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif ! has sudo; then
        return 1
    elif [[ -t 0 && ${CI:-} != true ]]; then
        sudo -- "$@"
    else
        sudo -n -- "$@"
    fi
}

# `docker version` and not `docker info`: the latter's exit code says nothing with some clients. The bound
# is for a DOCKER_HOST that swallows packets.
docker_is_usable() { has docker && timeout 20 docker version >/dev/null 2>&1; }
docker_is_usable_as_root() { has docker && as_root timeout 20 docker version >/dev/null 2>&1; }

# Where the engine answers to root alone, runs the script again: as the same user, with the socket's group
# added for this one run. Changes nothing on the machine, where joining the group `docker` would. Takes the
# script and its arguments; returns if that is not needed or cannot be done.
reach_docker() {
    local socket=/var/run/docker.sock groups
    if docker_is_usable || [[ $(id -u) -eq 0 || -n ${DOCKER_HOST:-} || -n ${SKYSAIL_DOCKER_GROUP:-} ]]; then
        return 0
    fi
    if [[ ! -S $socket ]] || ! docker_is_usable_as_root; then
        return 0
    fi
    groups="$(id -G | tr ' ' ','),$(stat --format %g "$socket")"
    say "going on with the Docker socket's group, which this user is not in"
    exec sudo -E setpriv --reuid="$(id -u)" --regid="$(id -g)" --groups="$groups" \
        env PATH="$PATH" HOME="$HOME" USER="$(id -un)" SKYSAIL_DOCKER_GROUP=1 "$@"
}

# Builds an image with whichever builder is there; the newer one may keep its results to itself unless told
# to hand them to the engine. What it prints matters only if it fails: the older one complains of its age.
docker_build() {
    local builder=(docker build) output
    if docker buildx version >/dev/null 2>&1; then
        builder=(docker buildx build --load)
    fi
    output=$("${builder[@]}" "$@" 2>&1) || die "$output"
}

# The value of a name in cargo's own description of the workspace, such as target_directory.
cargo_metadata() {
    cargo metadata --format-version 1 --no-deps | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"
}

workspace_version() {
    local id
    id=$(cargo pkgid -p skysail-frontend)
    echo "${id##*[@#]}"
}

# The machine's own target, always given explicitly: with an explicit target, RUSTFLAGS reach our binaries
# only, while procedural macros, which a static build cannot load, are built as they always are.
host_target() { rustc -vV | sed -n 's/^host: //p'; }

# The profile that .ci/binaries builds, and where it puts the static binaries.
binaries_profile() { echo "${SKYSAIL_PROFILE:-release}"; }
binaries_folder() { echo "$(cargo_metadata target_directory)/$(host_target)/$(binaries_profile)"; }
