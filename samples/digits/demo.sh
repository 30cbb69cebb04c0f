#!/bin/sh
# Evolve the embedded LeNet-5 over ten generations and show what came of it. `make demo` calls this.
# ADAPTER=jax retrains in JAX; arguments go to `evonnx evolve`.
set -eu
here=$(dirname "$0")
out=runs/digits-demo-$(date +%Y%m%d-%H%M%S)-$$
# Idle threads that spin would slow the others down on a small machine.
OMP_WAIT_POLICY=PASSIVE
export OMP_WAIT_POLICY

evonnx evolve "$here/lenet5.onnx" --gens 10 --keep 0.75 --adapter "${ADAPTER:-torch}" --out "$out" "$@"
echo
evonnx bench "$here/lenet5.onnx" "$out/best.onnx" --batch 1,32 --provider cpu --threads 1
