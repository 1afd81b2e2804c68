"""A package's header: configuration, names, shapes and codes as one JSON object, DEFLATEd with a preset dictionary.

Names that differ only in a layer number are written once with ``*``, and dimensions as the configuration key that holds them, so that
the list of a Llama-style model is text the dictionary already contains. Expansion is in docs/package-format.md, section 2.
"""

from __future__ import annotations

import itertools
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from scalebound.compress.dictionary import dictionary_of
from scalebound.compress.grouped import Grouped, part_order
from scalebound.compress.model import RAW_DTYPES
from scalebound.compress.tables import Table, read_tables
from scalebound.core.errors import InputError
from scalebound.core.io import canonical_json, parse_json

MAGIC = b"SBZ"
# versions: of the second are files with steps, of the third those where columns change places, of the fourth plain deltas with a dictionary of their own
PLAIN, GROUPED, SORTED, DELTA = 1, 2, 3, 4
MAX_META_BYTES = 16 << 20
HEADER_KEYS = {"config", "layers", "shift", "code", "tensors"}
# where several keys of a configuration hold the same number, which one the usual shapes are written with
DIMENSION_KEYS = ("hidden_size", "intermediate_size", "vocab_size", "head_dim", "n_embd")
LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers")


@dataclass(frozen=True)
class Code:
    """How one tensor is stored: ``dtype`` of a raw one, else the numbers of its tables (-1: none) and, of a grouped one, its steps."""

    dtype: str = ""
    table: int = -1
    row_scales: int = -1
    col_scales: int = -1
    row_classes: int = -1
    col_classes: int = -1
    steps: tuple[str | int, ...] = ()

    @property
    def fields(self) -> tuple[str | int, ...]:
        """As in an entry: the dtype, or the numbers (without the -1 at their end when nothing follows) and the steps."""
        if self.dtype:
            return (self.dtype,)
        numbers = [self.table, self.row_scales, self.col_scales, self.row_classes, self.col_classes]
        if self.steps:
            return (*numbers, *self.steps)
        while numbers[-1] == -1:
            numbers.pop()
        return tuple(numbers)


def version_of(steps: Iterable[tuple[str | int, ...]], config: dict[str, Any]) -> int:
    """The version to write, by what the steps of all tensors need and whether the file holds a delta (which older writers gave version 1)."""
    given = [part for part in steps if part]
    return SORTED if any("columns" in part[::3] for part in given) else GROUPED if given else DELTA if "delta" in config else PLAIN


@dataclass(frozen=True)
class Slot:
    """One tensor of the file."""

    name: str
    shape: tuple[int, ...]
    code: Code


def check_size(elements: int, payload_bytes: int, where: str) -> None:
    """Refuse more numbers than a file of this size may stand for: what a reader allocates is bounded by what it was given."""
    if elements > (1 << 28) + (payload_bytes << 16):
        raise InputError(f"{elements:,} numbers in {payload_bytes:,} bytes", where=where, expected="at most 2^28 and 65,536 a byte")


@dataclass(frozen=True)
class Pattern:
    """Tensors that share one entry: a name with ``*`` for the layer, or one tensor. ``names`` are those it expands to, in order."""

    name: str
    shape: tuple[int, ...]
    names: tuple[str, ...]


def steps_of(name: str, tensor: Grouped, written: str) -> tuple[str | int, ...]:
    """Steps as an entry has them, for a tensor that is ``written`` with a star: names of parts of the same layer get the star too."""
    steps = [field for step in tensor.steps for field in (step.kind, step.part, step.each)]
    if name == written:
        return tuple(steps)
    at = written.index("*")
    layer = name[:at] + name[at:].partition(".")[0] + "."
    return tuple(field.replace(layer, f"{name[:at]}*.") if isinstance(field, str) else field for field in steps)


def find_patterns(shapes: dict[str, tuple[int, ...]], kinds: dict[str, str | Grouped]) -> tuple[int | None, list[Pattern]]:
    """Group names that differ only in their first whole number, where it runs over 0 .. layers - 1 and shapes (and raw dtypes, and steps) agree.

    Returns the number of layers (None without patterns) and the patterns sorted by name, parts first.
    """

    def kind(name: str, star: str) -> object:
        found = kinds.get(name)
        return steps_of(name, found, star) if isinstance(found, Grouped) else found

    groups: dict[str, dict[int, str]] = defaultdict(dict)
    for name in shapes:
        parts = name.split(".")
        at = next((k for k, part in enumerate(parts) if part.isascii() and part.isdigit() and str(int(part)) == part), None)
        if at is not None:
            groups[".".join([*parts[:at], "*", *parts[at + 1 :]])][int(parts[at])] = name
    alike = {
        star: tuple(names[k] for k in range(len(names)))
        for star, names in groups.items()
        if set(names) == set(range(len(names))) and len({(shapes[name], kind(name, star)) for name in names.values()}) == 1
    }
    counts = Counter(len(names) for names in alike.values())
    layers = max(counts, key=lambda k: (counts[k] * k, k)) if counts else None
    if any("*" in name for name in shapes):
        layers = None  # a star would be ambiguous: write every name out
    starred = {star: names for star, names in alike.items() if len(names) == layers}
    covered = {name for names in starred.values() for name in names}
    patterns = [Pattern(star, shapes[names[0]], names) for star, names in starred.items()]
    patterns += [Pattern(name, shape, (name,)) for name, shape in shapes.items() if name not in covered]
    return layers if starred else None, sorted(patterns, key=lambda pattern: part_order(pattern.name))


def write_header(config: dict[str, Any], layers: int | None, patterns: list[Pattern], codes: dict[str, Code], shift: int) -> bytes:
    """The header's JSON; ``codes`` by tensor name."""
    numbers = {key: value for key, value in config.items() if type(value) is int and value >= 0}
    dictionary = dictionary_of(PLAIN).decode("ascii")
    fields = {pattern.name: _merge([codes[name].fields for name in pattern.names]) for pattern in patterns}
    default = Counter(canonical_json(code) for code in fields.values()).most_common(1)
    common = parse_json(default[0][0], where="code") if default else [0]
    if isinstance(common[0], str) or any(isinstance(field, list) for field in common):
        common = [0, 1]
    entries = []
    for pattern in patterns:
        code = [] if fields[pattern.name] == common else fields[pattern.name]
        choices = [[*(key for key in DIMENSION_KEYS if numbers.get(key) == size), size][:3] for size in pattern.shape]
        written = [[pattern.name, list(shape), *code] for shape in itertools.product(*choices[:3], *[[size] for size in pattern.shape[3:]])]
        entries.append(next((entry for entry in written if canonical_json(entry).decode() in dictionary), written[0]))
    by_key = next((key for key in LAYER_KEYS if layers is not None and numbers.get(key) == layers), layers)
    return canonical_json({"code": common, "config": config, "layers": by_key, "shift": shift, "tensors": entries})


def _merge(fields: list[tuple[str | int, ...]]) -> list[Any]:
    """One code for all tensors of a pattern: positions that differ become lists."""
    width = max(map(len, fields))
    padded = [[*field, *[-1] * (width - len(field))] for field in fields]
    return [column[0] if len(set(column)) == 1 else list(column) for column in zip(*padded, strict=True)]


def deflate(header: bytes, tables: list[Table], version: int) -> bytes:
    """Meta bytes: the shortest of zlib's strategies."""
    plain = header + b"\0" + b"".join(table.stored for table in tables)
    best: list[bytes] = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_FILTERED):
        packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy, zdict=dictionary_of(version))
        best.append(packer.compress(plain) + packer.flush())
    return min(best, key=len)


def inflate(meta: bytes, version: int, where: str) -> tuple[dict[str, Any], list[Slot], int, list[Table]]:
    """Configuration, tensors in file order, shift and tables; InputError for whatever the format does not allow."""
    unpacker = zlib.decompressobj(-15, zdict=dictionary_of(version))
    try:
        plain = unpacker.decompress(meta, MAX_META_BYTES)
    except zlib.error as error:
        raise InputError(f"the header cannot be inflated ({error})", where=where) from error
    if not unpacker.eof or unpacker.unused_data:
        raise InputError("the header is truncated, followed by other bytes, or above 16 MiB", where=where)
    text, separator, stored = plain.partition(b"\0")
    header = parse_json(text, where=where)
    if not separator or not isinstance(header, dict) or set(header) != HEADER_KEYS or not isinstance(header["config"], dict):
        raise InputError("the header lacks a key or has another", where=where, expected=", ".join(sorted(HEADER_KEYS)))
    config, shift, entries = header["config"], header["shift"], header["tensors"]
    if type(shift) is not int or not 0 <= shift <= 7 or not isinstance(entries, list):
        raise InputError("the header's shift or tensors are of the wrong kind", where=where)
    layers = None if header["layers"] is None else _number(header["layers"], config, "layers", where)
    tables = read_tables(stored, where)
    slots: list[Slot] = []
    for entry in entries:
        slots += _expand(entry, header["code"], layers, config, len(tables), where)
        if len(slots) > MAX_META_BYTES:
            raise InputError("the header lists more than 16 million tensors", where=where)
    if len({slot.name for slot in slots}) != len(slots):
        raise InputError("two tensors have one name", where=where)
    return config, slots, shift, tables


def _number(value: Any, config: dict[str, Any], what: str, where: str) -> int:
    found = config.get(value) if isinstance(value, str) else value
    if type(found) is not int or not 0 <= found < 1 << 40:
        raise InputError(f"{what} is {value!r}", where=where, expected="a whole number, or the name of a configuration key that holds one")
    return found


def _expand(entry: Any, default: Any, layers: int | None, config: dict[str, Any], num_tables: int, where: str) -> list[Slot]:
    if not isinstance(entry, list) or len(entry) < 2 or not isinstance(entry[0], str) or not isinstance(entry[1], list) or len(entry[1]) > 64:
        raise InputError("an entry of the header is not [name, shape, code..]", where=where)
    name, dimensions, *code = entry
    code = code or default
    shape = tuple(_number(size, config, f"a dimension of {name}", where) for size in dimensions)
    if layers is None or "*" not in name:
        return [Slot(name, shape, _code(code, num_tables, name, where))]
    if layers > MAX_META_BYTES or not isinstance(code, list) or any(isinstance(field, list) and len(field) != layers for field in code):
        raise InputError(f"the code of {name} does not fit the number of layers", where=where)
    return [
        Slot(name.replace("*", str(k)), shape, _code([_of_layer(f, k) for f in code], num_tables, name, where)) for k in range(layers)
    ]


def _of_layer(field: Any, layer: int) -> Any:
    """An element of a starred entry's code, for one layer: its own of a list, and its number for a star."""
    field = field[layer] if isinstance(field, list) else field
    return field.replace("*", str(layer)) if isinstance(field, str) else field


def _code(fields: Any, num_tables: int, name: str, where: str) -> Code:
    if isinstance(fields, list) and len(fields) == 1 and isinstance(fields[0], str) and fields[0] in RAW_DTYPES:
        return Code(dtype=fields[0])
    numbers, steps = (fields[:5], tuple(fields[5:])) if isinstance(fields, list) else ([], ())
    good = len(numbers) >= 1 and all(type(field) is int and -1 <= field < num_tables for field in numbers) and numbers[0] >= 0
    if steps:
        triples = list(zip(steps[::3], steps[1::3], steps[2::3], strict=False))
        good = good and len(steps) % 3 == 0 and numbers[1:3] == [-1, -1]
        good = good and all(isinstance(part, str) and type(each) is int and 0 < each <= 1 << 40 for _, part, each in triples)
        good = good and all(kind in ("times", "plus", "columns") or (kind == "book" and k == 0) for k, (kind, _, _) in enumerate(triples))
    if not good:
        raise InputError(f"the code of {name} is {fields!r}", where=where, expected=f"a dtype, or numbers of the {num_tables} tables and steps")
    return replace(Code("", *numbers), steps=steps)
