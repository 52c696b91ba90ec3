#!/usr/bin/env bash
# Bring up a Docker Engine and a base image for builds, on a Debian machine, as root, with no image registry.
#
# What is there already is left alone: installed packages, a running engine, an imported image, the root file
# system's tar. Prints the base image's name on standard output, everything else on standard error.
#
#   tools/docker_engine.sh [PIDFILE]
#
# Writes the id of the dockerd that it started to PIDFILE (default .dockerd.pid), and nothing if one was
# running. Whoever stops the engine stops that id and no other.
#
#   BASE_IMAGE   name to import as        (python-base:3.13)
#   BASE_SUITE   Debian release to make   (trixie)
#   BASE_TAR     where its tar is kept    (/var/tmp/python-base-SUITE.tar)
#   DOCKER_WAIT  seconds for the engine   (60)
set -euo pipefail

pidfile=${1:-.dockerd.pid}
base=${BASE_IMAGE:-python-base:3.13}
suite=${BASE_SUITE:-trixie}
tar=${BASE_TAR:-/var/tmp/python-base-$suite.tar}
wait_s=${DOCKER_WAIT:-60}

say() { printf 'docker: %s\n' "$*" >&2; }
engine_answers() { docker info >/dev/null 2>&1; }

install_missing() {
  local package missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  say "installing ${missing[*]}"
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >&2
}

start_engine() {
  local log pid end
  log=$(mktemp -t dockerd.XXXXXX)
  say "starting dockerd, log in $log"
  dockerd </dev/null >"$log" 2>&1 &
  pid=$!
  printf '%s\n' "$pid" >"$pidfile"
  end=$((SECONDS + wait_s))
  until engine_answers; do
    if ! kill -0 "$pid" 2>/dev/null || ((SECONDS >= end)); then
      say "no engine after $wait_s s or less; the end of its log:"
      tail -n 20 "$log" >&2
      return 1
    fi
    sleep 0.1
  done
}

make_root_file_system() {
  say "making a Debian $suite root file system"
  install_missing mmdebstrap
  # In memory where there is a gigabyte of it: unpacking a few thousand files is bound by the disk.
  if [[ -w /dev/shm && $(df --output=avail -k /dev/shm | tail -n 1) -ge 1048576 ]]; then
    work=$(mktemp -d /dev/shm/base.XXXXXX)
  else
    work=$(mktemp -d)
  fi
  trap 'rm -rf "$work"' EXIT
  # Machines whose clock is not the archive's would refuse its index as not yet or no longer valid.
  TMPDIR=$work mmdebstrap --quiet --variant=minbase \
    --include=python3,python3-venv,ca-certificates \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
    --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    "$suite" "$work/base.tar" </dev/null >&2
  # Under its final name only when it is whole.
  mv "$work/base.tar" "$tar.$$"
  mv "$tar.$$" "$tar"
}

if ! command -v docker >/dev/null || ! docker buildx version >/dev/null 2>&1; then
  install_missing docker.io docker-cli docker-buildx
fi
engine_answers || { install_missing docker.io; start_engine; }
say "engine $(docker version --format '{{.Server.Version}}')"

if ! docker image inspect "$base" >/dev/null 2>&1; then
  [[ -s $tar ]] || make_root_file_system
  say "importing $base"
  docker import \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' "$tar" "$base" >/dev/null
fi
printf '%s\n' "$base"
