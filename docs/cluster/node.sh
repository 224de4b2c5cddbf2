#!/bin/bash
# One machine's part of a job, the same on all: bash docs/cluster/node.sh NODES PROCESSES HOST:PORT ulzoo's arguments...
# Exits with 75 if ulzoo was stopped by a signal after it saved. torchrun starts nothing anew here, since it would also do
# so after such a stop: the scheduler does.
set -uo pipefail

nodes=$1 processes=$2 meet=$3
shift 3
setsid torchrun --nnodes "$nodes" --nproc-per-node "$processes" --max-restarts 0 \
  --rdzv-backend c10d --rdzv-endpoint "$meet" --rdzv-id "${SLURM_JOB_ID:-ulzoo}" \
  -m ulzoo "$@" &
agent=$!
# Slurm signals this shell and what shares its process group, which is why torchrun has a session of its own: it would
# end at once. The training processes are told instead.
asked=
trap 'asked=1; pkill -USR1 -P "$agent" || true' USR1 TERM
while kill -0 "$agent" 2>/dev/null; do wait "$agent"; status=$?; done
[ -n "$asked" ] && [ "$status" -ne 0 ] && exit 75
exit "$status"
