#!/bin/bash
# Runs the processes of one machine; call it on each: bash docs/cluster/node.sh NODES PROCESSES HOST:PORT ULZOO_ARGUMENTS...
# Exits with 75 if ulzoo saved a checkpoint and stopped because of a signal. torchrun must not restart processes, since it
# would also do so after such a stop; the scheduler restarts the job.
set -uo pipefail

nodes=$1 processes=$2 endpoint=$3
shift 3
setsid torchrun --nnodes "$nodes" --nproc-per-node "$processes" --max-restarts 0 \
  --rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id "${SLURM_JOB_ID:-ulzoo}" \
  -m ulzoo "$@" &
agent=$!
# Slurm signals this shell and its process group. torchrun would exit immediately on that signal, so it runs in a
# separate session, and the signal is forwarded to the training processes only.
signalled=
trap 'signalled=1; pkill -USR1 -P "$agent" || true' USR1 TERM
while kill -0 "$agent" 2>/dev/null; do wait "$agent"; status=$?; done
[ -n "$signalled" ] && [ "$status" -ne 0 ] && exit 75
exit "$status"
