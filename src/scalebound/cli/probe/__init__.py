"""Show what equal loss does not tell: models of one loss that extrapolate, learn or fine-tune differently.

Every probe trains its own small models unless it is given one, counts with intervals, and finds an effect that is planted.

Examples
--------
scalebound probe rules --grammar anbn

scalebound probe finetune --out probes/finetune.json

next: scalebound report --probes probes/finetune.json, which draws what a probe wrote
"""

# name: (where its function is, what it asks); one file a probe
COMMANDS: dict[str, tuple[str, str]] = {
    "rules": ("scalebound.cli.probe.rules:rules", "Same loss on a grammar: which rule survives a prompt off the training strings?"),
    "length": ("scalebound.cli.probe.length:length", "Same accuracy at the lengths trained on: what happens beyond them?"),
    "patch": ("scalebound.cli.probe.patch:patch", "Activation patching: which layer, position or head carries the answer?"),
    "icl": ("scalebound.cli.probe.icl:icl", "Nearly equal loss: does it learn from the examples of a prompt? Also for a model of yours."),
    "room": ("scalebound.cli.probe.room:room", "Within epsilon nats of a checkpoint: how far can a stated probe be moved?"),
    "memorization": ("scalebound.cli.probe.memorization:memorization", "Training text given back, and documents known only for having been seen."),
    "finetune": ("scalebound.cli.probe.finetune:finetune", "Same function in other weights: does fine-tuning end at the same loss?"),
    "dimension": ("scalebound.cli.probe.dimension:dimension", "How many numbers of a random subspace does a task need? And what does that prove?"),
}
