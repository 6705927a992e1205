#!/bin/bash
# Four workers, one per node, that train together on JAX; the script is on a file system of all nodes.
#SBATCH --job-name=digits
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

# Read to the end: a command whose reader exits early dies of SIGPIPE, and the job with it.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export KERAS_BACKEND=jax
export KERAS_DISTRIBUTION_JOB_ADDRESSES="${nodes%%$'\n'*}:1234"
export KERAS_DISTRIBUTION_NUM_PROCESSES="$SLURM_NTASKS"

# One task that fails ends all of them.
srun --kill-on-bad-exit=1 \
  bash -c 'KERAS_DISTRIBUTION_PROCESS_ID=$SLURM_PROCID exec python train.py --run runs/digits'
