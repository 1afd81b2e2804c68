"""A small true world for the checker: a stream, a package, statistics, and one certificate of every method made by the library.

The losses are drawn, not measured: what the checker is tested on is whether files and claims agree. Where a model's own losses matter
(``--replay``) the test measures them.
"""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scalebound.certify import certify
from scalebound.compress import encode, quantize
from scalebound.core.certificate import Choice, FileRef, Inputs
from scalebound.core.hashing import model_sha256
from scalebound.core.stats import AnchorRef, ModelRef, Policy, Stats, StatsInfo, StreamRef
from scalebound.data.tokenizer import load_tokenizer

V, BLOCK, ALPHAS, EPS = 256, 64, (0.05, 0.1), 0.01
CONFIG = {"architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": None, "eos_token_id": None, "head_dim": 4,
    "hidden_act": "silu",
          "hidden_size": 8, "intermediate_size": 16, "max_position_embeddings": 256, "mlp_bias": False, "model_type": "llama",
              "num_attention_heads": 2,
          "num_hidden_layers": 1, "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": True,
          "vocab_size": V}  # fmt: skip


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_tensors(seed: int) -> dict[str, np.ndarray]:
    rng, hidden, inner = np.random.default_rng(seed), CONFIG["hidden_size"], CONFIG["intermediate_size"]
    layer = "model.layers.0."
    shapes = {"model.embed_tokens.weight": (V, hidden), "model.norm.weight": (hidden,), f"{layer}input_layernorm.weight": (hidden,),
              f"{layer}post_attention_layernorm.weight": (hidden,), f"{layer}mlp.gate_proj.weight": (inner, hidden),
              f"{layer}mlp.up_proj.weight": (inner, hidden), f"{layer}mlp.down_proj.weight": (hidden, inner),
              **{f"{layer}self_attn.{x}_proj.weight": (hidden, hidden) for x in "qkvo"}}  # fmt: skip
    return {name: (np.ones(shape) if len(shape) == 1 else rng.normal(0, 0.2, shape)).astype(np.float32) for name, shape in shapes.items()}


def write_stream(path: Path, tokens: np.ndarray) -> StreamRef:
    path.with_suffix(".bin").write_bytes(tokens.astype("<u2").tobytes())
    byte = load_tokenizer("byte").sha256
    info = {"schema": "scalebound.stream/1", "tokenizer": {"kind": "byte", "sha256": byte, "path": ""}, "vocab_size": V, "separator": 255,
            "dtype": "uint16", "num_tokens": len(tokens), "sequence_tokens": BLOCK, "seed": 7, "documents": [0], "num_documents": 1,
            "text_bytes": len(tokens), "split": "train", "source": {"name": "drawn", "sha256": "1" * 64},
            "bin_sha256": sha(path.with_suffix(".bin")), "version": "0"}  # fmt: skip
    path.write_text(json.dumps(info))
    return StreamRef(path=str(path), sha256=sha(path), num_tokens=len(tokens))


def rewrite_stats(path: Path, change=lambda arrays: arrays, **fields) -> None:
    """Change arrays or metadata of a stats file in place."""
    import msgspec

    old = Stats.load(path)
    names = [name for name in ("nll", "entropy", "varentropy", "reference_nll", "centre", "blocks") if name in old]
    arrays = {name: np.array(old.blocks if name == "blocks" else old.read(name)) for name in names}
    info = old.info
    del old
    write_raw(path, msgspec.to_builtins(info) | fields, change(arrays))


def write_raw(path: Path, info: dict, arrays: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    path.write_bytes(save({name: np.ascontiguousarray(value) for name, value in arrays.items()}, metadata={"scalebound": json.dumps(info)}))


def build(folder: Path) -> None:
    rng = np.random.default_rng(5)
    n = 40_000  # 625 blocks
    tokens = rng.integers(0, 200, n + 1_000)
    stream = write_stream(folder / "train.json", tokens)
    write_stream(folder / "other.json", tokens[::-1])
    for name, seed in (("model", 1), ("foreign", 2)):
        model = quantize(CONFIG, make_tensors(seed), bits=3)
        (folder / f"{name}.sbz").write_bytes(encode(model))
        if name == "model":
            numbers = model.dequantized()
    identity = model_sha256(CONFIG, [(name, "F32", value.shape, value) for name, value in numbers.items()])
    model_ref = ModelRef(name="tiny", sha256=identity, params=sum(value.size for value in numbers.values()))
    anchor = AnchorRef(
        kind="model", deployable=True, sha256="a" * 64, name="anchor", predictable="trained on other files", eps=EPS, alphas=ALPHAS
    )
    entropy = np.minimum(rng.gamma(2.0, 0.7, n), 5.0)
    nll = rng.exponential(1, n) * entropy
    reference = np.maximum(nll + rng.normal(0.2, 0.3, n), 0)
    centre = -np.abs(rng.normal(0.1, 0.1, (len(ALPHAS), n)))
    arrays = {"nll": nll, "entropy": entropy, "varentropy": entropy, "reference_nll": reference, "centre": centre}
    arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
    base = dict(stream=stream, vocab_size=V, policy=Policy("packed", BLOCK, 255), version="0")

    def save(name: str, kind: str, start: int, count: int, keep: tuple[str, ...], blocks: np.ndarray | None = None, model=model_ref,
             block: int = BLOCK) -> Stats:  # fmt: skip
        used = np.arange(count) if blocks is None else np.concatenate([np.arange(b * block, min((b + 1) * block, count)) for b in blocks])
        chosen = {key: arrays[key][..., used] for key in keep} | ({} if blocks is None else {"blocks": blocks.astype(np.int64)})
        info = StatsInfo(kind=kind, model=model, window=(start, start + count), tokens=len(used), text_bytes=len(used), block_tokens=block,
                         anchor=anchor if "centre" in keep else None, predictable="measured before" if kind == "online" else "",
                             **base)  # fmt: skip
        Stats(info, chosen).save(folder / f"{name}.safetensors")
        return Stats.load(folder / f"{name}.safetensors")

    every = ("nll", "entropy", "varentropy", "reference_nll", "centre")
    stats = save("stats", "model", 0, n, every)
    full = save("full", "model", 0, n, ("nll",), model=ModelRef(name="full", sha256="f" * 64, params=model_ref.params))
    online = save("online", "online", 0, n, ("nll",), model=ModelRef(name="run", sha256="", params=model_ref.params))
    ragged = n - BLOCK + 17
    whole = ragged // BLOCK
    sample = np.append(np.sort(rng.choice(whole, 500, replace=False)), whole)
    sampled = save("sampled", "model", 0, ragged, every, sample)
    few = save("few", "model", 0, ragged, every, np.append(np.sort(rng.choice(whole, 100, replace=False)), whole))
    short = save("short", "model", 0, n, every, np.sort(rng.choice(n // 8, 1500, replace=False)), block=8)
    size = 8 * (folder / "model.sbz").stat().st_size
    bits = size + 2 * (size.bit_length() - 1) + 1
    (folder / "certificates").mkdir()

    def issue(name: str, stats: Stats, method: str, *, code: bool = True, with_full: bool = False, reference: str = "", **settings) -> None:
        def ref(file: str) -> FileRef:
            return FileRef(path=f"../{file}", sha256=sha(folder / file)) if file else FileRef()

        inputs = Inputs(stats=ref(Path(stats.path).name), package=ref("model.sbz" if code else ""),
            full=ref("full.safetensors" if with_full else ""),
                        reference=ref(reference), stream=ref("train.json"), stream_sha256=stream.sha256,
                            model_sha256=stats.info.model.sha256)  # fmt: skip
        certificate = certify(stats, method=method, code_bits=bits if code else 0, full=full if with_full else None, inputs=inputs,
                              package_sha256=sha(folder / "model.sbz") if code else "",
                                  reference=Stats.load(folder / reference) if reference else None,
                              **settings)  # fmt: skip
        certificate.save(folder / "certificates" / f"{name}.json")

    issue("product", stats, "product", with_full=True)
    issue("fixed", stats, "product", alpha=0.1, choices=(Choice(setting="bits", options=7),))
    issue("freedman", stats, "freedman")
    issue("anchored", stats, "anchored")
    issue("anchored-eps", stats, "anchored", choices=(Choice(setting="eps", options=4),))
    issue("anchored-bits", stats, "anchored", choices=(Choice(setting="bits", options=4),))
    issue("anchored-online", stats, "anchored", reference="online.safetensors", alpha=0.5)
    issue("heldout", stats, "heldout", code=False)
    issue("trajectory", online, "trajectory", code=False, window=0.25)
    issue("sampled", sampled, "product")
    issue("sampled-freedman", sampled, "freedman")
    issue("sampled-anchored", sampled, "anchored")
    issue("bernstein", short, "product")  # m * rho = 1,050: the empirical Bernstein form
    issue("bernstein-anchored", short, "anchored")
    issue("few", few, "product")
    from scalebound.core.certificate import Centre

    issue("running", stats, "product", centres=(Centre(kind="running", y_min=0.5, weight=0.5), Centre(kind="zero", weight=0.5)))
    issue("weighted", stats, "product", grid=(0.3, 0.6, 0.9), weights=(0.2, 0.3, 0.5))


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """What the world is made of, for tests that make their own."""
    return SimpleNamespace(CONFIG=CONFIG, make_tensors=make_tensors, write_stream=write_stream, rewrite_stats=rewrite_stats)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build(folder)
    return folder


@pytest.fixture
def copy(world, tmp_path):
    """A copy of the world that a test may forge: ``.folder``, ``.json(name)``, ``.edit(name, change)`` and ``.rehash(name, input)``."""
    folder = tmp_path / "world"
    shutil.copytree(world, folder)

    def path(name: str) -> Path:
        return folder / "certificates" / f"{name}.json"

    def edit(name: str, change) -> Path:
        certificate = json.loads(path(name).read_text())
        change(certificate)
        path(name).write_text(json.dumps(certificate))
        return path(name)

    def rehash(name: str) -> Path:
        """State the hashes that the files now have: the forger's next move."""

        def change(c: dict) -> None:
            for ref in c["inputs"].values():
                if isinstance(ref, dict) and ref["path"]:
                    ref["sha256"] = sha(path(name).parent / ref["path"])
            c["inputs"]["stream_sha256"] = c["inputs"]["stream"]["sha256"]
            c["code"]["package_sha256"] = c["inputs"]["package"]["sha256"]

        return edit(name, change)

    return SimpleNamespace(folder=folder, path=path, edit=edit, rehash=rehash, rewrite_stats=rewrite_stats, write_raw=write_raw)
