"""Removal must not change the function: masked and compact model compared in onnxruntime."""

from evonnx.proof.judging import TensorProof
from evonnx.proof.proving import Proof, prove, prove_pair, require

__all__ = ["Proof", "TensorProof", "prove", "prove_pair", "require"]
