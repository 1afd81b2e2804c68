"""``--replay m``: score m random blocks again with the decoded model, through plain transformers, and compare with the statistics.

The only part that needs torch and transformers, and the only one that would notice statistics invented together with their hash.
The blocks are drawn from a seed nobody knew when the certificate was made, unless one is given. The reference's losses of an anchored
certificate are not replayed: its model is not among the certificate's files.
"""

import secrets
from typing import Any

import numpy as np

from scalebound_verify.arrays import Statistics
from scalebound_verify.package import Tensors
from scalebound_verify.strict import Refused

# Two correct float32 implementations differ by about 1e-5 a token; what these admit moves a bound by far less than a nat's thousandth.
PER_TOKEN, MEAN = 2e-3, 2e-4


def load(config: dict[str, Any], tensors: Tensors) -> Any:
    """The causal model of a configuration with exactly these tensors; sizes are compared before memory is allocated."""
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise Refused("--replay needs torch and transformers", hint="pip install 'scalebound[lm]'", status=4) from error
    # keys that would fetch code, kernels or a quantizer have no say here
    plain = {key: value for key, value in config.items() if key not in ("auto_map", "quantization_config", "dtype", "torch_dtype") and key[:1] != "_"}
    try:
        settings = AutoConfig.for_model(**plain)
        with torch.device("meta"):
            shapes = {name: tuple(tensor.shape) for name, tensor in AutoModelForCausalLM.from_config(settings).state_dict().items()}
        wrong = [name for name, (_, array) in tensors.items() if shapes.get(name) != array.shape]
        if wrong:
            raise Refused(f"the tensor {wrong[0]!a} does not fit the configuration", "package")
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32, attn_implementation="eager").eval()
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise Refused(f"transformers cannot build a model from its configuration ({str(error)[:200]})", "package") from error
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, (_, value) in tensors.items()}, strict=False)
    held = model.state_dict()
    given = {held[name].data_ptr() for name in tensors}
    missing = [name for name in held if held[name].data_ptr() not in given]
    if missing:
        raise Refused(f"has no tensor {missing[0]!a}, which its configuration needs", "package")
    return model


def score(model: Any, first: int, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NLL and entropy of every token of a block; the model sees ``first`` and then the block without its last token."""
    import torch

    inputs = torch.from_numpy(np.concatenate([[first], block[:-1]]).astype(np.int64))[None]
    with torch.no_grad():
        log_p = torch.log_softmax(model(input_ids=inputs, use_cache=False).logits[0].double(), dim=-1)
    nll = -log_p.gather(1, torch.from_numpy(block.astype(np.int64))[:, None])[:, 0]
    return nll.numpy(), -(log_p.exp() * log_p.clamp(min=-1e4)).sum(-1).numpy()


def replay(config: dict[str, Any], tensors: Tensors, stats: Statistics, tokens: np.ndarray, blocks: int, seed: int | None) -> tuple[bool, str]:
    """Whether losses and entropies agree on ``blocks`` random blocks, and whether no loss depends on tokens after its own."""
    if stats.info["policy"]["name"] != "packed" or not stats.block_tokens:
        raise Refused(f"--replay knows the policy 'packed' only, not {stats.info['policy']['name']!a}", stats.path, status=2)
    model, seed = load(config, tensors), secrets.randbits(32) if seed is None else seed
    chosen = np.sort(np.random.default_rng(seed).choice(len(stats.blocks), min(blocks, len(stats.blocks)), replace=False))
    first, width, off, count, worst = stats.info["policy"]["first_token"], stats.block_tokens, 0.0, 0, 0.0
    for index in chosen:
        start = int(stats.blocks[index]) * width
        block = tokens[start : min(start + width, stats.length)]
        nll, entropy = score(model, first, block)
        changed = block.copy()
        changed[len(block) // 2 :] = (changed[len(block) // 2 :].astype(np.int64) + 1) % stats.info["vocab_size"]
        early = np.abs(score(model, first, changed)[0] - nll)[: len(block) // 2]
        if early.max(initial=0.0) > PER_TOKEN:
            return False, f"block {int(stats.blocks[index])}: a loss depends on later tokens (it moved by {early.max():.2g})"
        at = int(index) * width
        for name, fresh in (("nll", nll), ("entropy", entropy)):
            if name in stats.arrays:
                gap = stats.slice(name, at, at + len(block)) - fresh
                worst = max(worst, float((np.abs(gap) / (1 + fresh)).max()))
                if name == "nll":
                    off, count = off + float(gap.sum()), count + len(block)
    good = worst <= PER_TOKEN and abs(off / count) <= MEAN
    return good, f"{len(chosen)} blocks, seed {seed}: worst {worst:.1e} (at most {PER_TOKEN:g}), mean {off / count:+.1e} (at most {MEAN:g})"
