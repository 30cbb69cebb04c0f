"""Fuzzing guided by coverage, of everything that `inspect` does with a model. Needs atheris.

    pip install atheris
    python fuzz/guided.py CORPUS_DIR -max_total_time=600 -timeout=30 -rss_limit_mb=2048

Runs in one process until something must not happen: an error that is neither evonnx's own nor due to a model
that the ONNX standard refuses, a crash, 30 s for one input, 2 GiB. libFuzzer writes that input into the
working directory; run the command on it again to see it. An empty CORPUS_DIR gets the tests' models.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["evonnx"]):
    import corpus
    import mutate
    import onnx

    from evonnx.cli.inspect import describe
    from evonnx.dependency import analyse
    from evonnx.errors import EvonnxError
    from evonnx.network import load_network
    from evonnx.onnx_io import check_file

SCRATCH = Path(tempfile.mkdtemp(prefix="evonnx-guided-")) / "m.onnx"


def one_input(data: bytes) -> None:
    SCRATCH.write_bytes(data)
    try:
        network = load_network(SCRATCH)
        describe(network, analyse(network))
    except (EvonnxError, OSError):
        return
    except Exception:
        try:
            check_file(SCRATCH)
        except EvonnxError:
            return
        raise


def mutator(data: bytes, max_size: int, seed: int) -> bytes:
    """A model's fields edited, or its bytes damaged."""
    rng = random.Random(seed)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
        if rng.random() < 0.9:
            mutate.mutated(proto, rng, rng.choice((1, 1, 2)))
            return proto.SerializeToString()[:max_size]
    except Exception:  # not parsed, or more than protobuf writes
        pass
    return mutate.damaged(data, rng)[:max_size]


def main() -> None:
    folder = next((Path(one) for one in sys.argv[1:] if not one.startswith("-")), None)
    if folder is not None and folder.is_dir() and not any(folder.iterdir()):
        for number, (_, data) in enumerate(corpus.models()):
            (folder / f"{number}.onnx").write_bytes(data)
    atheris.Setup([*sys.argv, "-max_len=65536"], one_input, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
