"""Several runs on one stream, one process per core, or one task each on a Ray cluster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from scalebound.core.cluster import run_on_ray
from scalebound.core.errors import UsageError, require_extra
from scalebound.core.progress import Progress, silent
from scalebound.core.workers import run_tasks
from scalebound.train import parallel
from scalebound.train.loop import RunInfo, train_run
from scalebound.train.recipe import Recipe
from scalebound.train.record import losses_so_far
from scalebound.train.sharded import check_sharding


def _rung(recipe: Recipe, stream: str, out: str, device: str, fresh: bool = False, *, progress: Progress = silent) -> RunInfo:
    return train_run(recipe, stream, out, device=device, fresh=fresh, progress=progress)


def train_ladder(rungs: Sequence[tuple[Recipe, str | os.PathLike, str | os.PathLike]], *, workers: int | None = None, ray_address: str = "", device: str = "cpu", shard: bool = False, fresh: bool = False, progress: Progress = silent) -> list[RunInfo]:
    """Train every ``(recipe, stream, run folder)``, the longest first, and return their infos in the order given.

    Each run uses one thread, so results do not depend on the number of workers. Under ``torchrun`` the processes share every run, one after the other.

    Parameters
    ----------
    workers
        Processes, a rung at a time each. Default: one per core; one on a CUDA device.
    ray_address
        Give the rungs to a Ray cluster instead (:func:`~scalebound.core.cluster.run_on_ray`), a core or a device each. Streams and run folders must lie where all its machines
        see them, under the same absolute paths: a rung whose machine is lost goes on elsewhere from its last checkpoint there. The files are
        those of one process.
    device, shard, fresh
        As in :func:`~scalebound.train.train_run`.

    Raises
    ------
    ScaleboundError
        What a run raised; the others are stopped, what they had saved is kept.
    """
    check_ladder([recipe for recipe, _, _ in rungs], workers=workers, ray_address=ray_address, shard=shard)
    if parallel.size() > 1:
        return [train_run(recipe, stream, out, device=device, shard=shard, fresh=fresh, progress=progress) for recipe, stream, out in rungs]
    order = sorted(range(len(rungs)), key=lambda k: -rungs[k][0].flops)
    if ray_address:
        infos = _on_ray([rungs[k] for k in order], ray_address, device, fresh, progress)
    else:
        tasks = [(rungs[k][0], str(rungs[k][1]), str(rungs[k][2]), device, fresh) for k in order]
        infos = run_tasks(_rung, tasks, workers=workers or (None if device == "cpu" else 1), progress=progress)
    return [info for _, info in sorted(zip(order, infos, strict=True), key=lambda pair: pair[0])]


def check_ladder(recipes: Sequence[Recipe], *, workers: int | None = None, ray_address: str = "", shard: bool = False) -> None:
    """Refuse ways of training that exclude each other.

    Raises
    ------
    UsageError
        A Ray cluster with anything else that says how many processes there are; shards in one process.
    InputError
        A recipe that cannot be trained in shards.
    MissingExtra
        Ray is asked for and not installed.
    """
    if ray_address:
        if workers is not None or shard or parallel.size() > 1:
            raise UsageError("--ray-address with --workers, --shard or torchrun", expected="none of them: a rung is one task, and the cluster says how many run at once")
        require_extra("ray", "ray")
    for recipe in recipes:
        check_sharding(shard, recipe)


def _on_ray(rungs: Sequence[tuple[Recipe, str | os.PathLike, str | os.PathLike]], address: str, device: str, fresh: bool, progress: Progress) -> list[RunInfo]:
    folders = [Path(out).absolute() for _, _, out in rungs]
    for folder in folders if fresh else []:  # here and not in the task, which may be run again to go on
        shutil.rmtree(folder, ignore_errors=True)
    whole = sum(recipe.tokens for recipe, _, _ in rungs)

    def watch() -> None:
        done = sum(recipe.tokens if (folder / "run.json").is_file() else losses_so_far(folder) for (recipe, _, _), folder in zip(rungs, folders, strict=True))
        progress(done, whole)

    tasks = [(recipe, str(Path(stream).absolute()), str(folder), device) for (recipe, stream, _), folder in zip(rungs, folders, strict=True)]
    return run_on_ray(_rung, tasks, address=address, gpus=0 if device == "cpu" else 1, watch=watch)
