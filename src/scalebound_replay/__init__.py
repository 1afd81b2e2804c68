"""``--replay m``: m random blocks scored again with the decoded model, through plain transformers: the only part that would notice
statistics invented together with their hash. References are not replayed. (:mod:`scalebound_replay.base`: models rebuilt from a base.)"""

import secrets
from typing import Any

import numpy as np

from scalebound_verify.arrays import Statistics
from scalebound_verify.package import Tensors
from scalebound_verify.strict import Refused

# Correct float32 implementations differ by some 1e-5 a token; worst of |difference| / (1 + value), and the mean difference of the losses.
WORST, MEAN = 2e-3, 1e-4

def load(config: dict[str, Any], tensors: Tensors) -> Any:
    """The causal model of a configuration with exactly these tensors; shapes are compared before memory is taken."""
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise Refused("--replay needs torch and transformers", hint="pip install 'scalebound[lm]'", status=4) from error
    given = {name: torch.from_numpy(np.array(array)) for name, (_, array) in tensors.items()}
    # keys that would fetch code, kernels or a quantizer have no say here
    plain = {key: config[key] for key in config.keys() - {"auto_map", "quantization_config", "dtype", "torch_dtype"} if key[:1] != "_"}
    try:
        settings = AutoConfig.for_model(**plain)
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in AutoModelForCausalLM.from_config(settings).state_dict().items()}
        if any(shapes.get(name) != tensor.shape for name, tensor in given.items()):
            raise ValueError("a tensor does not fit")
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32, attn_implementation="eager").eval()
        model.load_state_dict(given, strict=False)
        held = model.state_dict()
        loaded = {held[name].data_ptr() for name in given}  # tied tensors share their memory
        if any(tensor.data_ptr() not in loaded for tensor in held.values()):
            raise ValueError("a tensor is missing")
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, ImportError) as error:
        raise Refused(f"transformers builds no model from its configuration and tensors ({str(error)[:200]})", "package") from error
    return model

def score(model: Any, first: int, block: np.ndarray) -> dict[str, np.ndarray]:
    """NLL and entropy of every token of a block; the model sees ``first`` and then the block without its last token."""
    import torch
    inputs, targets = (torch.from_numpy(part.astype(np.int64)) for part in (np.append(first, block[:-1]), block))
    with torch.no_grad():
        log_p = torch.log_softmax(model(input_ids=inputs[None], use_cache=False).logits[0].double(), dim=-1)
    return {"nll": -log_p[range(len(block)), targets].numpy(), "entropy": -(log_p.exp() * log_p.clamp(min=-1e4)).sum(-1).numpy()}

def replay(config: dict[str, Any], tensors: Tensors, stats: Statistics, tokens: np.ndarray, m: int, seed: int | None) -> tuple[bool, str]:
    """Whether losses and entropies agree on ``m`` random blocks, and whether no loss depends on tokens after its own."""
    if stats.info["policy"]["name"] != "packed" or not len(stats.blocks):
        raise Refused(f"--replay knows the policy 'packed', not {stats.info['policy']['name']!a}", stats.path, status=2)
    model, seed, first = load(config, tensors), secrets.randbits(32) if seed is None else seed, stats.info["policy"]["first_token"]
    chosen, width, worst, gaps = np.random.default_rng(seed).permutation(len(stats.blocks))[:m], stats.width, 0.0, []
    for index in map(int, chosen):
        start = int(stats.blocks[index]) * width
        block = np.array(tokens[start : min(start + width, stats.length)])
        fresh, changed, half = score(model, first, block), block.copy(), len(block) // 2
        changed[half:] = (changed[half:].astype(np.int64) + 1) % stats.info["vocab_size"]
        if (np.abs(score(model, first, changed)["nll"] - fresh["nll"])[:half] > WORST).any():
            return False, f"block {stats.blocks[index]}: losses depend on later tokens"
        for name in sorted(fresh.keys() & stats.arrays.keys()):  # "nll" comes last
            gap = stats.slice(name, index * width, index * width + len(block)) - fresh[name]
            worst = max(worst, float((np.abs(gap) / (1 + fresh[name])).max()))
        gaps.append(gap)
    good = [abs(mean := float(np.concatenate(gaps).mean())) <= MEAN, worst <= WORST]
    return all(good), f"{len(chosen)} blocks, seed {seed}: worst {worst:.1e} of {WORST:g}, mean {mean:+.1e} of {MEAN:g}"
