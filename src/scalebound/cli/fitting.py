"""What `fit` and `backtest` ask alike: which rows, explained by which penalty."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Fitting:
    """The options shared by the commands that fit.

    Parameters
    ----------
    target
        Column to explain; the law's own (loss, error) when not given.
    columns
        Renames, new=old: loss=c4_val,params=N.
    where
        Conditions on rows: dataset=C4,params>1e8.
    huber
        Width delta of Huber's penalty of log residuals.
    squares
        Least squares of the target itself.
    absolute
        Least absolute log residuals.
    group
        Column naming the run of a row: whole runs are resampled.
    last
        One row per run of --group: the mean of its last so many rows.
    average
        Moving average over so many rows along each run of --group.
    skip
        With --average: leave out this first share of every run.
    begin
        With --law cooldown: the rows where cooldowns begin (set=cool_begin); joined with --end along --group.
    end
        With --law cooldown: the rows where they end.
    weights
        Column of row weights.
    level
        Level of the intervals.
    seed
        Seed of the bootstrap.
    drop_bad
        Leave out rows that cannot be used, and say so.
    fix
        Parameters given instead of fitted: alpha=0.35,beta=0.35.
    """

    target: str | None = None
    columns: str = ""
    where: str = ""
    huber: float | None = None
    squares: bool = False
    absolute: bool = False
    group: str | None = None
    last: int | None = None
    average: int | None = None
    skip: float = 0.0
    begin: str = ""
    end: str = ""
    weights: str | None = None
    level: float = 0.95
    seed: int = 0
    drop_bad: bool = False
    fix: str = ""

    def table(self, data: Path, law: str):
        """The table as the options ask for it: renamed, filtered, one row per run, smoothed along runs, or one row per cooldown."""
        from scalebound import scaling
        from scalebound.core.errors import UsageError

        out = scaling.read_table(data, columns=self.columns, where=self.where)
        if self.skip and self.average is None:
            raise UsageError("--skip needs --average", expected="--average K --skip SHARE")
        if bool(self.begin) != bool(self.end):
            raise UsageError("--begin and --end go together", expected="the rows where cooldowns begin, and those where they end")
        if self.begin and law != "cooldown":
            raise UsageError(f"--begin and --end have no meaning for the law {law}", expected="--law cooldown")
        needs = "--last and --average need" if self.last or self.average else "--begin and --end need"
        if self.group is None and (self.last is not None or self.average is not None or self.begin):
            raise UsageError(f"{needs} --group", expected="the column that names the run of a row")
        if self.begin:
            assert self.group is not None
            return scaling.cooldowns(out, begin=self.begin, end=self.end, group=self.group)
        if self.average is not None:
            assert self.group is not None
            out = scaling.smoothed(out, self.group, self.average, self.skip)
        if self.last is not None:
            assert self.group is not None
            out = scaling.last_mean(out, self.group, self.last)
        return out

    def penalty(self) -> dict:
        """The objective that the flags name, as arguments of `scaling.fit`; the law's own when none does."""
        from scalebound.core.errors import UsageError

        if (self.huber is not None) + self.squares + self.absolute > 1:
            raise UsageError("--huber, --squares and --absolute exclude one another", expected="one of them")
        kind = "huber" if self.huber is not None else "squares" if self.squares else "absolute" if self.absolute else None
        return {"objective": kind, "delta": 1e-3 if self.huber is None else self.huber}

    def rows(self) -> dict:
        """Arguments about rows and intervals that `fit`, `choose` and `backtest` of `scalebound.scaling` take alike."""
        return {
            "target": self.target,
            "group": self.group,
            "weights": self.weights,
            "level": self.level,
            "seed": self.seed,
            "drop_bad": self.drop_bad,
        }


def given(text: str, flag: str = "--fix") -> dict[str, float] | None:
    """``a=1,b=2`` as a mapping."""
    from scalebound.scaling.rows import parse_points

    return {name: float(values[0]) for name, values in parse_points(text, flag=flag).items()} if text else None
