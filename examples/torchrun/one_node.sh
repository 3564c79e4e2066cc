#!/bin/bash
# One machine, a process per GPU: examples/torchrun/one_node.sh PROCESSES VERB RECIPE [OPTIONS], for example
#   bash examples/torchrun/one_node.sh 8 run recipe.yaml
set -eu
processes=$1
shift

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
exec python -m torch.distributed.run --standalone --nproc-per-node "$processes" --shutdown-timeout 100 \
    -m clipzoo "$@"
