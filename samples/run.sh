#!/bin/sh
# Make a sample's ancestor, unless it is there, and evolve it; started again, it goes on where it stopped.
#
#     sh samples/run.sh NAME MODEL RUN [options of evonnx evolve]
#
# The run is in runs/NAME/RUN-SEED. EVONNX_DATA names a folder that has the data (else it is downloaded), TRAIN
# holds options of train.py, SEED is the evolution's (0 if unset).
set -eu
name=$1
model=$2
folder=runs/$name
out=$folder/$3-${SEED:=0}
shift 3
# Idle threads that spin would slow the others down on a small machine.
OMP_WAIT_POLICY=PASSIVE
export OMP_WAIT_POLICY

# Unquoted on purpose: TRAIN holds several words.
# shellcheck disable=SC2086
[ -f "$folder/$model.onnx" ] || python "samples/$name/train.py" --out "$folder" ${TRAIN:-}
if [ -f "$out/run.json" ]; then
  set -- "$@" --resume
fi
evonnx evolve "$folder/$model.onnx" --out "$out" --seed "$SEED" "$@"
