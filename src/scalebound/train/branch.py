"""Branching a cooldown off a stable run (Haegele et al., arXiv 2405.18392): one trunk at a constant rate serves every length of training.

A branch is an ordinary run folder that begins with the trunk's past: its log, the losses of its tokens, its weights and optimizer state at a
checkpoint. From there it trains on, on the same stream, with a recipe whose rates up to the checkpoint were the trunk's. So a branch *is* the
uninterrupted warmup-stable-decay run of that recipe, to the bit; only the shared part was paid for once.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import numpy as np

from scalebound.core.errors import InputError, UsageError
from scalebound.core.io import atomic_write, canonical_json, read_json, relative
from scalebound.core.progress import Progress, silent
from scalebound.core.stats import Stats
from scalebound.train.checkpoint import STATE, checkpoint_folder, complete_checkpoints, step_of
from scalebound.train.loop import RunInfo, train_run
from scalebound.train.recipe import Recipe, load_recipe
from scalebound.train.record import ONLINE_PART
from scalebound.train.schedule import SCHEDULES
from scalebound.train.schedule.warmup import rising_steps

MAY_DIFFER = ("tokens", "schedule", "warmup", "decay", "checkpoints", "watch", "noise_scale")


def find_trunk(path: str | os.PathLike) -> tuple[Path, Path]:
    """The run folder and the checkpoint that ``path`` means: a checkpoint to go on from, or a run (its newest such checkpoint).

    Raises
    ------
    InputError
        No run there, or no checkpoint with the state to go on from.
    """
    path = Path(path)
    run = path.parent.parent if path.parent.name == "checkpoints" else path
    if not (run / "recipe.toml").is_file():
        raise InputError("is no run and no checkpoint of one", where=str(path), expected="RUN or RUN/checkpoints/step-N")
    found = complete_checkpoints(run, resumable=True)
    if path != run:
        found = [folder for folder in found if folder.name == path.name]
    if not found:
        raise InputError("holds no checkpoint to go on from", where=str(path), hint='train the trunk with schedule = "constant" and checkpoints = [0.5, 0.8]')
    return run, found[-1]


def cooldown_recipe(trunk: Recipe, step: int, *, share: float, schedule: str = "wsd") -> Recipe:
    """The recipe of a branch at ``step`` whose last ``share`` of all steps is the cooldown: ``steps = step / (1 - share)``, rounded.

    Raises
    ------
    UsageError
        A share outside (0, 1), or a schedule without a cooldown.
    """
    if not 0.0 < share < 1.0:
        raise UsageError(f"a cooldown of {share}", expected="a share of the whole run, between 0 and 1")
    if not schedule.startswith("wsd"):
        raise UsageError(f"schedule = {schedule!r} for a cooldown", expected="one of " + ", ".join(name for name in SCHEDULES if name.startswith("wsd")))
    steps = max(step + 1, round(step / (1 - share)))
    return msgspec.structs.replace(
        trunk, tokens=steps * trunk.batch_sequences * trunk.context, schedule=schedule, decay=(steps - step) / steps, warmup=rising_steps(trunk.steps, trunk.warmup) / steps, checkpoints=(),
    )  # fmt: skip


def branch_run(trunk: str | os.PathLike, recipe: Recipe, stream: str | os.PathLike, out: str | os.PathLike, *, base: str | os.PathLike | None = None, threads: int = 1, progress: Progress = silent) -> RunInfo:
    """Go on from a trunk's checkpoint under another recipe, in a folder of its own.

    Parameters
    ----------
    trunk
        What :func:`find_trunk` takes.
    recipe
        Equal to the trunk's but for length, schedule and what is kept (see :func:`cooldown_recipe`).
    stream
        The trunk's stream; it must reach as far as the branch.
    base
        The model the trunk itself started from, if it did.

    Raises
    ------
    InputError
        A recipe whose rates before the checkpoint are not the trunk's, or that differs in another key; a folder that holds another run.
    """
    run, checkpoint = find_trunk(trunk)
    out, step, own = Path(out), step_of(checkpoint), load_recipe(run / "recipe.toml")
    owner = read_json(run / "stream.json")
    for key in Recipe.__struct_fields__:
        if key not in MAY_DIFFER and getattr(own, key) != getattr(recipe, key):
            raise InputError(f"{key} = {getattr(recipe, key)!r}", where="recipe of the branch", expected=f"{getattr(own, key)!r}, as the trunk's")
    for k in range(step):
        rates = [SCHEDULES[r.schedule](k, r.steps, warmup=r.warmup, decay=r.decay) for r in (own, recipe)]
        if rates[0] != rates[1]:
            raise InputError(f"has another rate than its trunk at step {k + 1}, before the branch at {step}", where="recipe of the branch", expected="a trunk that is stable up to the checkpoint")
    if own.pruning != "none":
        raise InputError(f"pruning = {own.pruning!r}", where=str(run / "recipe.toml"), expected="a trunk without pruning: its masks follow from the length of the run")
    if recipe.steps <= step:
        raise InputError(f"ends at step {recipe.steps}", where="recipe of the branch", expected=f"more than the {step} of the checkpoint")
    if not (out / "recipe.toml").is_file():
        _begin(run, checkpoint, recipe, out)
    return train_run(recipe, stream, out, base=base, window_start=owner["window"][0], threads=threads, progress=progress)


def _begin(run: Path, checkpoint: Path, recipe: Recipe, out: Path) -> None:
    """Put the trunk's past into a new folder; ``train_run`` writes the recipe, which makes it a run."""
    if out.exists() and any(out.iterdir()):
        raise InputError("is not empty", where=str(out), expected="a new folder")
    step = step_of(checkpoint)
    done = step * recipe.batch_sequences * recipe.context
    if (run / "online.safetensors").is_file():
        losses = np.asarray(Stats.load(run / "online.safetensors").read("nll", 0, done))
    else:
        losses = np.fromfile(run / ONLINE_PART, dtype="<f4", count=done)
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)[:step]
    if len(losses) < done or len(lines) < step:
        raise InputError("lacks the losses or the log up to its checkpoint", where=str(run))
    atomic_write(out / ONLINE_PART, losses.astype("<f4").tobytes())
    atomic_write(out / "log.jsonl", "".join(lines).encode())
    atomic_write(out / "branch.json", canonical_json({"trunk": relative(run, out), "step": step}))
    target = checkpoint_folder(out, step)
    target.mkdir(parents=True, exist_ok=True)
    names = sorted((file.name for file in checkpoint.iterdir()), key=lambda name: (name == "config.json", name != STATE))
    for name in names:  # config.json last: with it the checkpoint is complete
        shutil.copyfile(checkpoint / name, target / name)
