#!/bin/bash
# The processes of one machine: node.sh HEAD NODES PROCESSES VERB RECIPE [OPTIONS]. Every machine runs it once.
set -eu
head=$1 nodes=$2 processes=$3
shift 3

exec python -m torch.distributed.run --nnodes "$nodes" --nproc-per-node "$processes" --rdzv-backend c10d \
    --rdzv-endpoint "$head:${CLIPZOO_PORT:-29500}" --rdzv-id "${SLURM_JOB_ID:-clipzoo}" \
    --shutdown-timeout 100 -m clipzoo "$@"
