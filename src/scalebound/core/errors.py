"""The one family of errors: each class is an exit status, each instance says what, where, what would be right, what to type."""

from __future__ import annotations

import errno


class ScaleboundError(Exception):
    """Base of every error a user can cause or meet.

    Parameters
    ----------
    what
        What is wrong, in one line.
    where
        File, row, key or flag. May be empty when ``what`` names it.
    expected
        What would be right.
    hint
        What to type or do next.
    """

    status = 5

    def __init__(self, what: str, *, where: str = "", expected: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.expected, self.hint = what, str(where), expected, hint

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line}; expected {self.expected}" if self.expected else line

    def __reduce__(self):
        # keyword-only arguments would be lost when a worker process hands the error to its parent
        return (_rebuild, (type(self), self.what, self.where, self.expected, self.hint))

    def record(self) -> dict:
        """The object ``--json`` prints on failure."""
        return {
            "error": {"what": self.what, "where": self.where, "expected": self.expected, "hint": self.hint},
            "status": self.status,
        }


def _rebuild(cls: type[ScaleboundError], what: str, where: str, expected: str, hint: str) -> ScaleboundError:
    return cls(what, where=where, expected=expected, hint=hint)


class ClaimFails(ScaleboundError):
    """The claim does not hold: ``verify`` found it false, or ``--require`` is not met."""

    status = 1


class UsageError(ScaleboundError):
    """A command or function was called wrongly; an argument out of its range included."""

    status = 2


class InputError(ScaleboundError):
    """A file or array is missing, corrupt, or not what it should be."""

    status = 3


class MissingExtra(ScaleboundError):
    """An optional dependency is needed and not installed."""

    status = 4


class MachineError(ScaleboundError):
    """The machine or the run failed: disk full, divergence, a worker lost."""

    status = 5


def from_os_error(error: OSError, path: object) -> ScaleboundError:
    """Translate what the operating system said of ``path`` into the family above."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError("no space left on the disk; nothing half-written was kept", where=str(path), hint="free some space and run the same command again")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return InputError("no such file or folder", where=str(path))
    if error.errno == errno.EEXIST:
        return InputError("is a file", where=str(error.filename or path), expected="a folder")
    if error.errno == errno.EISDIR:
        return InputError("is a folder", where=str(path), expected="a file")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return MachineError("permission denied", where=str(path))
    return MachineError(error.strerror or str(error), where=str(path))


def require_extra(module: str, extra: str = "lm") -> None:
    """Raise :class:`MissingExtra` unless ``module`` can be imported."""
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise MissingExtra(f"the package {module!r} is not installed", hint=f"pip install 'scalebound[{extra}]'")
