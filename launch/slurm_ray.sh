#!/usr/bin/env bash
# Stages on the machines that Slurm lends, by Ray: sbatch launch/slurm_ray.sh CONFIG [KEY=VALUE …]
# How many is said to sbatch: sbatch --nodes=4 --time=12:00:00 launch/slurm_ray.sh my.yaml
# Trainers run by the ranks that CONFIG gives them (ray: {ppo: {workers: 8}}), else on the first machine in one process; or end
# here with the last data stage, and let launch/slurm.sh go on in the same folder. Five minutes before the time is up the run stops, and the job joins the queue.
#SBATCH --job-name=reasoner-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
if [ $# -eq 0 ] || [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "got no CONFIG, or no job of Slurm's around this; expected: sbatch launch/slurm_ray.sh CONFIG [KEY=VALUE …]" >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
python="${PYTHON:-.venv/bin/python}"
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
address="$head:$((20000 + SLURM_JOB_ID % 20000))"
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
if [ "$RAY_AUTH_MODE" = token ]; then  # which lies in the home folder that the machines share
    "$python" -m ray.scripts.scripts get-auth-token --generate >/dev/null || exit 2
fi
# Ray on each machine, the others until the first one answers; Slurm's signal is for the run alone
srun --overlap --ntasks-per-node=1 bash -c '
    trap "" USR1
    ray() { "$0" -m ray.scripts.scripts start --block --disable-usage-stats --num-cpus "${SLURM_CPUS_PER_TASK:-1}" "$@"; }
    if [ "$SLURM_NODEID" = 0 ]; then
        ray --head --port "${1##*:}" --include-dashboard false
    else
        until ray --address "$1"; do sleep 5; done
    fi' "$python" "$address" >&2 &
cluster=$!
for _ in $(seq 120); do  # what joins later is taken in by the run
    (exec 3<>"/dev/tcp/$head/${address##*:}") 2>/dev/null && break
    kill -0 "$cluster" 2>/dev/null || break
    sleep 1
done
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" bash -c 'exec "$0" -m reasoner run "$@"' \
    "$python" "$@" --ray "$address"
code=$?
kill "$cluster" 2>/dev/null
wait "$cluster" 2>/dev/null
if [ "$code" -eq 75 ]; then  # "saved, try again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
