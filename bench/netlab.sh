#!/usr/bin/env bash
# netlab.sh --hosts N --rate RATE -- COMMAND ...: runs COMMAND under mpirun, one rank on each of N hosts that are network
# namespaces of this machine, joined by a bridge. Each host's link is shaped to RATE (e.g. 1gbit, as tc writes it; none:
# unshaped) in both directions. Needs root, iproute2 and Open MPI. All hosts share this machine's cores.
set -euo pipefail

usage() {
  sed -n '2,5s/^# //p' "$0" >&2
  exit 2
}

# Called back by mpirun to start a process on a host: netlab.sh --enter LAB HOST COMMAND ...
if [[ ${1:-} == --enter ]]; then
  lab=$2 host=${3##*.}
  shift 3
  exec ip netns exec "$lab-$host" unshare --uts sh -c "hostname host$host; $*"
fi

hosts='' rate=''
while (($#)); do
  case $1 in
    --hosts) hosts=${2:-} ;;
    --rate) rate=${2:-} ;;
    --) break ;;
    *) usage ;;
  esac
  shift 2 || usage
done
[[ ${1:-} == -- && $hosts =~ ^[0-9]+$ && $rate ]] && (($# > 1 && hosts >= 1 && hosts <= 64)) || usage
shift
((EUID == 0)) || { echo "netlab: network namespaces need root" >&2; exit 1; }
for tool in ip tc mpirun unshare; do
  command -v "$tool" >/dev/null || { echo "netlab: there is no $tool here" >&2; exit 1; }
done

lab=slim$$
net=10.$((64 + $$ / 250 % 64)).$(($$ % 250))
bridge=$lab-b
clean() {
  for ((i = 1; i <= hosts; i++)); do
    ip link delete "$lab.$i" 2>/dev/null || true
    ip netns delete "$lab-$i" 2>/dev/null || true
  done
  ip link delete "$bridge" 2>/dev/null || true
  rm -f "/tmp/$lab.sh"
}
trap clean EXIT

# What may pass at once at full speed: a millisecond's worth (less, and the kernel's timers slow the link down), and no
# less than ten packets.
case $rate in
  *gbit) burst=$((${rate%gbit} * 125000)) ;;
  *mbit) burst=$((${rate%mbit} * 125)) ;;
  none) burst=0 ;;
  *) echo "netlab: the rate is $rate: give e.g. 100mbit, 1gbit or none" >&2; exit 2 ;;
esac
((burst >= 16000)) || burst=16000
shape() { # DEVICE [COMMAND-PREFIX ...]
  [[ $rate == none ]] || "${@:2}" tc qdisc add dev "$1" root tbf rate "$rate" burst "$burst" latency 100ms
}

ip link add "$bridge" type bridge
ip link set "$bridge" up
list=''
for ((i = 1; i <= hosts; i++)); do
  ip netns add "$lab-$i"
  ip link add "$lab.$i" type veth peer name eth0 netns "$lab-$i"
  ip link set "$lab.$i" master "$bridge" up
  ip -n "$lab-$i" address add "$net.$i/24" dev eth0
  ip -n "$lab-$i" link set eth0 up
  ip -n "$lab-$i" link set lo up
  shape "$lab.$i"
  shape eth0 ip netns exec "$lab-$i"
  list+=${list:+,}$net.$i:1
done

# mpirun splits its agent's name at spaces, which this file's may have.
agent=/tmp/$lab.sh
printf '#!/bin/sh\nexec "%s" --enter "%s" "$@"\n' "$(readlink -f "${BASH_SOURCE[0]}")" "$lab" >"$agent"
chmod +x "$agent"
ip netns exec "$lab-1" unshare --uts sh -c 'hostname host1; exec "$@"' netlab \
  mpirun --allow-run-as-root -n "$hosts" --host "$list" --oversubscribe --bind-to none \
  --mca plm_rsh_agent "$agent" --mca plm_rsh_no_tree_spawn 1 \
  --mca btl tcp,self --mca btl_tcp_if_include "$net.0/24" --mca oob_tcp_if_include "$net.0/24" \
  --mca mpi_yield_when_idle 1 "$@" </dev/null
