#!/usr/bin/env bash
# A run on the GPUs that Slurm lends, one process each: sbatch launch/slurm.sh CONFIG [KEY=VALUE …]
# How many is said to sbatch: sbatch --nodes=4 --time=12:00:00 launch/slurm.sh configs/gsm8k/ppo.yaml
# Five minutes before the time is up the trainers save; the job then joins the queue again and goes on where it was.
#SBATCH --job-name=reasoner
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
if [ $# -eq 0 ] || [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "got no CONFIG, or no job of Slurm's around this; expected: sbatch launch/slurm.sh CONFIG [KEY=VALUE …]" >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
MASTER_PORT="$((20000 + SLURM_JOB_ID % 20000))"
export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
# exec, so that Slurm's signal meets the program and its exit code comes back; who is left alone ends after two minutes
srun --kill-on-bad-exit=0 --wait=120 bash -c '
    export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS"
    export LOCAL_WORLD_SIZE="${SLURM_NTASKS_PER_NODE:-$SLURM_NTASKS}"
    exec "$0" -m reasoner run "$@"' "${PYTHON:-.venv/bin/python}" "$@"
code=$?
if [ "$code" -eq 75 ]; then  # "saved, try again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
