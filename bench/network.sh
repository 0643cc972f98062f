#!/usr/bin/env bash
# Measures allreduce at several link rates: network.sh NETLAB PROGRAM PRELOAD TORCH_PROGRAM LIBRARY [--hosts N]
# [--rates "100mbit 1gbit 10gbit none"] [--mib 1,16,100] [--csv FILE] [--plot FILE.svg]. As root, alone on the machine.
# Where Debian's python3 has PyTorch, its DDP hooks are measured too.
set -euo pipefail
netlab=$(readlink -f "$1") program=$(readlink -f "$2") preload=$(readlink -f "$3")
torch=$(readlink -f "$4") SLIMCCL_LIBRARY=$(readlink -f "$5")
shift 5
cd "${BAZELW_PWD:-$PWD}"
hosts=4 rates='100mbit 1gbit 10gbit none' mib=1,16,100 csv='' plot=''
while (($#)); do
  case $1 in
    --hosts) hosts=$2 ;;
    --rates) rates=$2 ;;
    --mib) mib=$2 ;;
    --csv) csv=$(readlink -f "$2") ;;
    --plot) plot=$(readlink -f "$2") ;;
    *) sed -n '2,3s/^# //p' "$0" >&2; exit 2 ;;
  esac
  shift 2
done
[[ $csv ]] || csv=$(mktemp --suffix=.csv)
: >"$csv"
for rate in $rates; do
  SLIM_COMPRESS='auto(ef(qsgd(bits=4)))' SLIM_CYCLE=1 SLIM_DEBUG=INFO "$netlab" --hosts "$hosts" --rate "$rate" -- \
    -x LD_PRELOAD="$preload" -x SLIM_COMPRESS -x SLIM_CYCLE -x SLIM_DEBUG "$program" measure --rate "$rate" --csv "$csv" --mib "$mib"
  if /usr/bin/python3 -c 'import torch' 2>/dev/null; then
    rm -f "$csv.meet" # of a run that was stopped
    PYTHONPATH=${torch%/*/*}/plugin/torch "$netlab" --hosts "$hosts" --rate "$rate" -- -x PYTHONPATH \
      -x SLIMCCL_LIBRARY="$SLIMCCL_LIBRARY" -x GLOO_SOCKET_IFNAME=eth0 /usr/bin/python3 "$torch" --rate "$rate" \
      --csv "$csv" --mib "$mib"
  fi
done
"$program" show --csv "$csv" ${plot:+--plot "$plot"}
