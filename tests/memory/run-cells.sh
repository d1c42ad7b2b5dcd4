#!/usr/bin/env bash
# Builds the two images of this folder, and runs the four cells that the project exists for under a
# container's memory limits, before (module as cargo links it, memory only reserved) and after
# (module pinned, memory secured). `cargo xtask memory-test` does the same without containers.
#
#   run-cells.sh [--require]
#
# DOCKER names the command, for instance podman [docker].
# Exit status: 0 every cell is as it must be, or there is no engine and the line `skipped: no docker
# engine` says so; 1 a cell is not as it must be; 2 bad usage, an image cannot be built or run, or
# there is no engine and --require was given.
set -euo pipefail
cd "$(dirname "$0")/../.."

docker=${DOCKER:-docker}
enough=4608
little=512
block=3200000014000000
success='/memory-stress-result/0 = SUCCESS:1000MB'

case "$*" in
  '') require=false ;;
  --require) require=true ;;
  *) echo "usage: run-cells.sh [--require]" >&2; exit 2 ;;
esac
if ! "$docker" info >/dev/null 2>&1; then
  echo "skipped: no docker engine"
  if $require; then exit 2; fi
  exit 0
fi

for image in final preallocate; do
  "$docker" build -f "tests/memory/Dockerfile.$image" -t "wasm-prealloc-$image" . >&2 || exit 2
done

name="wasm-prealloc-cell-$$"
said=$(mktemp)
clean() {
  "$docker" rm --force "$name" >/dev/null 2>&1 || true
  "$docker" volume rm --force "$name" >/dev/null 2>&1 || true
}
trap 'clean; rm -f "$said"' EXIT

# What the database of a cell holds; a host that was refused early has not made one.
stored() {
  local mounted=(--rm --volume "$name:/data")
  if "$docker" run "${mounted[@]}" --entrypoint test "$1" -e /data/index.redb; then
    "$docker" run "${mounted[@]}" "$1" --dump --db /data/index.redb
  fi
}

wrong=0
errors=''
printf '| setup  | memory   | guest   | exit | killed | stored                                   | as it must be |\n'
printf '|--------|----------|---------|------|--------|------------------------------------------|---------------|\n'
run_cell() {
  local setup=$1 limit=$2 guest=$3 image module status=0 killed held differs=''
  case $guest in
    stress) image=wasm-prealloc-final module=memory_stress ;;
    minimal) image=wasm-prealloc-preallocate module=minimal ;;
  esac
  # After, the image's own command is what is shown.
  local arguments=()
  if [ "$setup" = before ]; then
    arguments=("/guests/natural/$module.wasm" --unsecured --block "$block" --db /data/index.redb)
  fi
  clean
  "$docker" volume create "$name" >/dev/null
  # With as much swap as memory, which is the default, a limit would not be one.
  "$docker" run --name "$name" --memory="${limit}m" --memory-swap="${limit}m" --volume "$name:/data" \
    "$image" "${arguments[@]}" >/dev/null 2>"$said" || status=$?
  if [ "$status" -ge 125 ] && [ "$status" -le 127 ]; then
    cat "$said" >&2
    exit 2
  fi
  killed=$("$docker" inspect --format '{{.State.OOMKilled}}' "$name")
  held=$(stored "$image")

  local want_status=0 want_killed=false want_held=''
  case "$setup $limit $guest" in
    "before $little stress") want_status=137 want_killed=true ;;
    "after $little "*) want_status=1 ;;
    *" $enough stress") want_held=$success ;;
  esac
  [ "$status" = "$want_status" ] || differs="$differs; the exit status must be $want_status"
  [ "$killed" = "$want_killed" ] || differs="$differs; killed must be $want_killed"
  [ "$held" = "$want_held" ] || differs="$differs; what is stored must be '$want_held'"
  case "$setup $limit" in
    "after $enough")
      grep -q 'secured: 4294967296 bytes (4096 MiB) resident' "$said" || differs="$differs; 4 GiB must be resident" ;;
    "after $little")
      grep -Eq 'memory not secured: .*cgroup' "$said" || differs="$differs; the error must name the cgroup's limit"
      errors="$errors
$guest, $limit MiB: $(cat "$said")" ;;
  esac
  local verdict=yes
  if [ -n "$differs" ]; then verdict="NO: ${differs#; }"; fi
  printf '| %-6s | %4s MiB | %-7s | %4s | %-6s | %-40s | %-13s |\n' \
    "$setup" "$limit" "$guest" "$status" "$killed" "${held:-nothing}" "$verdict"
  [ -z "$differs" ] || wrong=$((wrong + 1))
}

for setup in before after; do
  for limit in $enough $little; do
    for guest in stress minimal; do
      run_cell "$setup" "$limit" "$guest"
    done
  done
done

printf '\nWhat the hosts said that refused:\n%s\n' "$errors"
if [ "$wrong" -gt 0 ]; then
  echo "error: $wrong cells are not as they must be" >&2
  exit 1
fi
