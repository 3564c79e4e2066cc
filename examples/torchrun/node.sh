#!/bin/bash
# One of several machines: examples/torchrun/node.sh RANK NODES HEAD PROCESSES VERB RECIPE [OPTIONS]. Every machine runs
# it with its own RANK, from 0; HEAD is the name of machine 0. For two machines with 8 GPUs each:
#   bash examples/torchrun/node.sh 0 2 machine0 8 run recipe.yaml      # on machine0
#   bash examples/torchrun/node.sh 1 2 machine0 8 run recipe.yaml      # on the other one
# Recipe, data, labels and the run's folder are on a file system that all machines share, at one path.
set -eu
rank=$1 nodes=$2 head=$3 processes=$4
shift 4

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
exec python -m torch.distributed.run --nnodes "$nodes" --node-rank "$rank" --nproc-per-node "$processes" \
    --master-addr "$head" --master-port "${CLIPZOO_PORT:-29500}" --shutdown-timeout 100 -m clipzoo "$@"
