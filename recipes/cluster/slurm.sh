#!/bin/bash
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=08:00:00

source /shared/venv/bin/activate
export RHOTRACE_DATA=/shared/data
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}'):6379

srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" \
  ray symmetric-run --address "$address" --min-nodes "$SLURM_NNODES" --num-cpus="$SLURM_CPUS_PER_TASK" -- \
  rhotrace sweep /shared/phase-diagram.yaml -o /shared/sweeps/phase --ray auto
