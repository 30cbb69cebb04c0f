#!/bin/sh
# Make a sample's ancestor, unless it is there, and evolve it; started again, it goes on where it stopped.
#
#     sh samples/run.sh NAME MODEL [options of evonnx evolve]
#
# EVONNX_DATA names a folder that has the data (else it is downloaded), TRAIN holds options of train.py.
set -eu
name=$1
model=$2
shift 2
folder=runs/$name
# Idle threads that spin would slow the others down on a small machine.
OMP_WAIT_POLICY=PASSIVE
export OMP_WAIT_POLICY

# Unquoted on purpose: TRAIN holds several words.
# shellcheck disable=SC2086
[ -f "$folder/$model.onnx" ] || python "samples/$name/train.py" --out "$folder" ${TRAIN:-}
if [ -f "$folder/evolved/run.json" ]; then
  set -- "$@" --resume
fi
evonnx evolve "$folder/$model.onnx" --out "$folder/evolved" "$@"
