#!/usr/bin/env bash
# One run on several nodes without a scheduler. The same line on each node, from the repository's root, first start and
# restart alike:
#   CONFIG=configs/ppo.yaml RUN_DIR=/shared/runs/starpilot HEAD=node0:29500 bash configs/cluster/torchrun.sh
set -euo pipefail

: "${CONFIG:?give a config, as CONFIG=configs/ppo.yaml}"
: "${RUN_DIR:?give a folder that all nodes share, as RUN_DIR=/shared/runs/starpilot}"
: "${HEAD:?give host and port of the first node, as HEAD=node0:29500}"
NODES=${NODES:-2}
GPUS=${GPUS:-4} # of each node

# torchrun passes SIGTERM on and kills after 30 seconds, or what torch from 2.12 on is told here. Where that is less than
# an iteration and a save take, the run is continued from the last boundary.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}

# --max-restarts 0: ranks that a signal has stopped end with 143, which torchrun takes for a failure; it would start them
# again on a machine that is about to go. torchrun's own status is 1, whatever that of a rank.
exec torchrun --nnodes "$NODES" --nproc-per-node "$GPUS" --max-restarts 0 \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "${RDZV_ID:-lightning-rl}" \
    -m lightning_rl fit --config "$CONFIG" --config configs/hardware/gpu.yaml --run_dir "$RUN_DIR" --ckpt_path last \
    --trainer.devices "$GPUS" --trainer.num_nodes "$NODES" --trainer.strategy ddp "$@"
