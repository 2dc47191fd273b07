#!/bin/bash
# One training run on several machines of a SLURM cluster, one process on each, with all its GPUs.
#
#   sbatch --nodes=4 experiments/launch/slurm.sh experiments/multimnist/joint.py runs/joint [--config.steps=50000 …]
#
# The folder of the run must be on a disk that all machines share; MTJAX_DATA may be. Two minutes before the time limit,
# and when the job is pre-empted, SLURM sends SIGTERM: the run saves, and the job is queued again and goes on. So it is
# after a machine has died: `srun` then ends on all of them. Three starts without a new checkpoint end the job.
#
#SBATCH --job-name=mtjax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail

if [ $# -lt 2 ]; then
  echo "usage: sbatch [--nodes=N …] $0 CONFIG WORKDIR [FLAGS…]" >&2
  exit 2
fi
config=$1 workdir=$2
shift 2
mkdir -p "$workdir"

newest() { ls "$workdir/checkpoints" 2>/dev/null | grep -E '^[0-9]+$' | sort -n | tail -n 1; }
finished() { grep -Eq '"status": *"finished"' "$workdir/run.json" 2>/dev/null; }

before=$(newest)
srun --kill-on-bad-exit=1 --label \
  "${PYTHON:-python}" -u -m mtjax.train --config="$config" --workdir="$workdir" "$@" &
step=$!
trap 'wait "$step"' TERM  # SIGTERM is for the processes of the step; this shell waits until they have saved
wait "$step"
status=$?

if finished; then
  exit "$status"
fi
tries=0
if [ "$(newest)" = "$before" ]; then
  tries=$(($(cat "$workdir/.failures" 2>/dev/null || echo 0) + 1))
fi
echo "$tries" > "$workdir/.failures"
if [ "$tries" -ge 3 ]; then
  echo "Not queued again: exit status $status, $tries starts without a new checkpoint." >&2
  exit 1
fi
echo "Stopped at step $(newest); queued again." >&2
scontrol requeue "$SLURM_JOB_ID"
