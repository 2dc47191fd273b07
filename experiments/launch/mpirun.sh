#!/bin/bash
# One training run on machines that Open MPI can reach, one process on each:
#
#   experiments/launch/mpirun.sh node1,node2 experiments/multimnist/joint.py runs/joint [--config.steps=50000 …]
#
# The folder of the run must be on a disk that all machines share; MTJAX_DATA may be. SIGTERM to mpirun reaches all
# processes, which save and end; the same command goes on, with as many machines as you like.
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "usage: $0 HOST[,HOST…] CONFIG WORKDIR [FLAGS…]" >&2
  exit 2
fi
hosts=$1 config=$2 workdir=$3
shift 3
export MTJAX_COORDINATOR="${MTJAX_COORDINATOR:-${hosts%%,*}:4321}"
exec mpirun --host "$hosts" --map-by ppr:1:node -x MTJAX_COORDINATOR -x MTJAX_DATA -x PATH -x PYTHONPATH \
  "${PYTHON:-python}" -u -m mtjax.train --config="$config" --workdir="$workdir" "$@"
