"""To a Ray cluster: one that is there, or one of this machine alone, started for the run."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator

import ray

from evonnx.errors import ExecutorError

_REACH_SECONDS = 5.0
_ADDRESS = re.compile(r"(?P<host>[^\s/:]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")


def connect(address: str | None, cores: int) -> bool:
    """Be the driver of a cluster.

    Args:
        address: `host:port` of the cluster's head, or "auto"; None: a cluster of this machine is started.
        cores: that one is to have.

    Returns:
        Whether this connected; False where the process was connected already, which is then used as it is.

    Raises:
        ExecutorError: there is no cluster at that address, or the process is connected to another one.
    """
    if ray.is_initialized():
        here = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", here):
            raise ExecutorError(
                f"This process is connected to the Ray cluster at {here}, and was asked for the one at "
                f"{address!r}. Leave the address out, or call ray.shutdown() first."
            )
        return False
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    elif address != "auto":
        _reach(address)
    try:
        with _own_signals():
            if address is None:
                ray.init(
                    address="local",
                    num_cpus=cores,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            else:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many kinds, plain `Exception` among them
        ray.shutdown()
        reason = str(error).split("\n")[0]
        if address is None:
            raise ExecutorError(f"No Ray cluster could be started on this machine: {reason}") from error
        raise _nobody(address, reason) from error
    return True


def _reach(address: str) -> None:
    """Ray itself tries for a minute."""
    if address.startswith("ray://"):
        raise ExecutorError(
            f"{address!r} is an address of Ray Client. Give the address of the cluster's head, such as "
            "10.0.0.1:6379, and run evonnx on a machine that belongs to the cluster (ray start --address)."
        )
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        raise ExecutorError(
            f"{address!r} is no address of a Ray cluster: write HOST:PORT, such as 10.0.0.1:6379, or auto."
        )
    try:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), _REACH_SECONDS).close()
    except OSError as error:
        raise _nobody(address, error.strerror or str(error)) from error


def _nobody(address: str, reason: str) -> ExecutorError:
    return ExecutorError(
        f"There is no Ray cluster at {address!r} ({reason}). `ray status --address {address}` must answer "
        "here; without --address a cluster of this machine is started."
    )


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; whoever had it before has it again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
