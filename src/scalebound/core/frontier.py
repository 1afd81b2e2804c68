"""What a sweep over file sizes found: ``frontier.json``, written last in its folder."""

from __future__ import annotations

import msgspec

SCHEMA = "scalebound.frontier/1"


class FrontierPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One package of the sweep. ``loss`` is its mean over the window, ``bound`` that of its certificate; nats per token."""

    name: str
    way: str  # "rtn", "gptq" or "beside": a package that was brought along
    setting: float  # the relative step of rtn, the bits per parameter asked of gptq, 0 of what was brought along
    package: str  # paths are relative to the folder
    file_bytes: int
    code_bits: int
    bits_per_parameter: float
    loss: float
    certificate: str
    bound: float
    alpha: float
    vacuous: bool


class Frontier(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All points, and the price of having looked at them.

    A bound of this kind holds for all packages of one decoder at once, each paying its own length, so picking the best package costs
    nothing more (``package_choice_bits``); one form of bound was computed, so none was picked (``method_choice_bits``); the share alpha of each
    certificate was picked from a list, and is paid for in each (``alpha_choice_bits``).
    """

    schema: str = SCHEMA
    model_sha256: str
    stream_sha256: str
    params: int
    window: tuple[int, int]
    delta: float
    full_loss: float
    package_choice_bits: float
    alpha_choice_bits: float
    method: str = "product"  # the form of every bound
    method_choice_bits: float = 0.0
    best: str  # name of the point with the smallest bound
    points: tuple[FrontierPoint, ...]
    version: str

    @property
    def search_bits(self) -> float:
        """What all that was picked costs in bits, part of every certificate's code."""
        return self.package_choice_bits + self.alpha_choice_bits + self.method_choice_bits


Frontier.SCHEMA = SCHEMA  # type: ignore[attr-defined]
