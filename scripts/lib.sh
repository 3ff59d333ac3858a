# shellcheck shell=bash
# What the scripts share. Sourced, not run. The caller has set -euo pipefail.
# shellcheck disable=SC2034 # Variables set here are used by the callers.

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# One heading per step, so that a log can be skimmed.
step() {
  printf '\n\033[1m==> %s\033[0m\n' "$*"
}

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# Prints the comment below the first line of a script, which is its help.
help_of() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$1"
}

has() {
  command -v "$1" >/dev/null 2>&1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif has sudo; then
    sudo "$@"
  else
    fail "cannot run \`$*\` as $(id -un): become root or install sudo, or install the packages yourself"
  fi
}

# need PROGRAM[=PACKAGE]…: installs the Debian packages of the programs that are missing.
need() {
  local pair missing=()
  for pair in "$@"; do
    has "${pair%%=*}" || missing+=("${pair#*=}")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  has apt-get || fail "these are missing, and there is no apt-get to install them: ${missing[*]}"
  step "Installing ${missing[*]}"
  # Packages of servers start them. The scripts start their own, so a policy (what Debian asks
  # before it starts a service) says no for the time of the installation, unless there is one.
  # shellcheck disable=SC2016 # "$@" belongs to the inner shell.
  as_root env DEBIAN_FRONTEND=noninteractive sh -eu -c '
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap "rm -f $policy" EXIT
      trap "exit 1" INT TERM
      printf "#!/bin/sh\nexit 101\n" >"$policy"
      chmod 755 "$policy"
    fi
    apt-get update --quiet
    apt-get install --quiet --yes --no-install-recommends "$@"
  ' need "${missing[@]}"
}

# Finds cargo, also where rustup puts it and no profile was read.
need_rust() {
  has cargo || PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  has cargo || fail "there is no Rust toolchain; install one as https://rustup.rs says, then run this again"
  # ring and libgit2 are built with the C compiler that Rust also links with.
  need cc=build-essential
}

# Waits until a command succeeds: until SECONDS DESCRIPTION COMMAND…
until_true() {
  local seconds=$1 what=$2 deadline
  shift 2
  deadline=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "waited $seconds s in vain until $what"
    sleep 0.05
  done
}

# start_redis DIR: a Redis of our own on the unix socket DIR/redis.sock, with its files in DIR.
# Sets redis_pid and exports SORTIE_REDIS_URL; the caller stops it.
start_redis() {
  local directory=$1
  redis-server --port 0 --unixsocket "$directory/redis.sock" --unixsocketperm 700 \
    --dir "$directory" --appendonly yes --appendfsync always --save '' \
    --maxmemory-policy noeviction \
    --daemonize no >"$directory/redis.log" 2>&1 &
  redis_pid=$!
  export SORTIE_REDIS_URL="unix://$directory/redis.sock"
  until_true 10 "redis-server answers (see $directory/redis.log)" \
    redis-cli -s "$directory/redis.sock" ping
}

# stop PID SECONDS: SIGTERM, then SIGKILL, to a child of this script.
stop() {
  local pid=$1 deadline=$((SECONDS + $2))
  kill "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      kill -KILL "$pid" 2>/dev/null || true
      break
    fi
    sleep 0.05
  done
  wait "$pid" 2>/dev/null || true
}

# The scripts use the sortie they build and a Redis of their own: nothing of the caller's settings.
forget_settings() {
  local name
  for name in "${!SORTIE_@}" POD_NAME REDIS_URL; do
    unset "$name"
  done
}
