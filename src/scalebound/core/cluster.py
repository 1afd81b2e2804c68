"""The tasks of :mod:`~scalebound.core.workers` on a Ray cluster: same functions, same results.

A task that loses its machine is started again elsewhere; a function that keeps what it has done (as measuring does) then goes on where it
was. Files are not sent: all machines must see the same paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scalebound.core.errors import MachineError, ScaleboundError, require_extra

RETRIES = 5


def run_on_ray(function: Callable[..., Any], tasks: Sequence[tuple], *, address: str, threads: int = 1, gpus: int = 0, watch: Callable[[], None] = lambda: None) -> list[Any]:
    """Call ``function(*task)`` for every task on the cluster at ``address`` and return the results in order.

    Parameters
    ----------
    address
        ``HOST:PORT`` or ``ray://HOST:PORT`` of a running cluster, ``auto`` for the one this machine belongs to, ``local`` for one made for this call.
    threads, gpus
        Cores and CUDA devices that a task takes. Tasks start in the order given as these become free: put the longest first.
    watch
        Called about every second, to report progress.

    Raises
    ------
    MissingExtra
        Ray is not installed.
    ScaleboundError
        What a task raised; the others are cancelled, what they had saved is kept.
    MachineError
        No cluster there, or a task died six times.
    """
    require_extra("ray", "ray")
    import ray

    began = not ray.is_initialized()
    if began:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", **({"include_dashboard": False} if address == "local" else {}))
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise MachineError(f"no Ray cluster answers ({' '.join(str(error).split())[:150]})", where=address, expected="the address of a running cluster", hint="ray start --head") from error
    waiting: list[Any] = []
    try:
        remote = ray.remote(function).options(num_cpus=threads, num_gpus=gpus, max_retries=RETRIES)
        found = [remote.remote(*task) for task in tasks]
        waiting = list(found)
        while waiting:
            done, waiting = ray.wait(waiting, timeout=1.0)
            watch()
            for one in done:
                ray.get(one)
        return ray.get(found)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ScaleboundError):
            raise error.cause from None
        raise MachineError(f"a task failed on the cluster ({' '.join(str(error.cause).split())[:200]})", where=address) from error
    except ray.exceptions.RayError as error:
        raise MachineError(f"the cluster lost a task ({' '.join(str(error).split())[:200]})", where=address, hint="run the same command again; what was finished is kept") from error
    finally:
        for one in waiting:
            ray.cancel(one, force=True)
        if began:
            ray.shutdown()
