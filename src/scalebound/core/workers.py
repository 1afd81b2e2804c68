"""Independent tasks on the cores of one machine: one process per core, progress added up.

For small models one process per core beats threads. Tasks are a picklable function with picklable arguments; they start in the order
given (put the longest first). Results do not depend on the number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from scalebound.core.errors import MachineError
from scalebound.core.progress import Progress, silent

_board: Any = None  # in a worker: the shared array of (done, total) pairs


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(function: Callable[..., Any], tasks: Sequence[tuple], *, workers: int | None = None, progress: Progress = silent) -> list[Any]:
    """Call ``function(*task, progress=...)`` for every task and return the results in order.

    Parameters
    ----------
    function
        A module-level function that takes ``progress`` by keyword.
    workers
        Processes; None means one per core. With one, or one task, everything runs in this process.

    Raises
    ------
    ScaleboundError
        What a task raised; the others are stopped, what they had saved is kept.
    MachineError
        A worker was killed (out of memory, usually).
    """
    count = min(workers or cores(), len(tasks))
    if count <= 1:
        results: list[Any] = []
        totals = [0, 0]
        for task in tasks:
            before = tuple(totals)

            def report(done: int, total: int, before: tuple = before) -> None:
                totals[:] = [before[0] + done, before[1] + total]
                progress(*totals)

            results.append(function(*task, progress=report))
        return results
    context = multiprocessing.get_context("spawn")
    board = context.Array("q", 2 * len(tasks), lock=False)
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=(board,))
    futures: list[Future] = [pool.submit(_run, function, number, task) for number, task in enumerate(tasks)]
    finished = False
    try:
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=0.25, return_when=FIRST_COMPLETED)
            progress(sum(board[0::2]), sum(board[1::2]))
            for future in done:
                future.result()
        finished = True
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise MachineError("a worker process was killed (out of memory?)", hint="run the same command again; what was finished is kept") from error
    finally:
        if not finished:
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(board: Any) -> None:
    global _board
    _board = board
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


def _run(function: Callable[..., Any], number: int, task: tuple) -> Any:
    def report(done: int, total: int) -> None:
        _board[2 * number], _board[2 * number + 1] = done, total

    return function(*task, progress=report)
