"""The table of implemented methods: data only, nothing imported.

One row brings a method into ``scalebound systems``, the documentation and its family's contract tests.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """One published method and where it lives.

    ``module`` is ``package.module:name``; ``demo`` a command that shows it; ``needs`` what the contract suite must find
    installed ("torch", "smollm2"), else it says what it skipped.
    """

    id: int
    title: str
    module: str
    family: str
    demo: str
    source: str
    needs: tuple[str, ...] = ()


SYSTEMS: tuple[System, ...] = (
    System(1, "Product-martingale bound", "scalebound.certify.product:product_bound", "bound", "scalebound certify S --package M.sbz", "docs/mathematics.md section 3"),
    System(2, "Fully empirical Freedman inequality", "scalebound.certify.freedman:freedman_bound", "bound",
           "scalebound certify S --package M.sbz --method freedman", "arXiv:2504.15208"),
    System(3, "Empirical Bernstein-Serfling sampling", "scalebound.certify.sampling:serfling_radius", "bound", "scalebound measure M T --sample 1000 --out S", "arXiv:1309.4029"),
    System(4, "AdamW", "scalebound.train.optim.adamw:adamw", "optimizer", "scalebound train --sizes 20k --out RUN", "arXiv:1711.05101", ("torch",)),
    System(5, "Warmup-stable-decay schedule", "scalebound.train.schedule.warmup_stable_decay:warmup_stable_decay", "schedule",
           "scalebound train --sizes 20k --out RUN", "arXiv:2404.06395"),
    System(6, "Power law with an irreducible part", "scalebound.scaling.laws.power:Power", "law", "scalebound fit T.csv --law power", "arXiv:1712.00409"),
    System(7, "Kaplan scaling law", "scalebound.scaling.laws.kaplan:Kaplan", "law", "scalebound fit T.csv --law kaplan", "arXiv:2001.08361"),
    System(8, "Chinchilla scaling law", "scalebound.scaling.laws.chinchilla:Chinchilla", "law", "scalebound fit T.csv --law chinchilla", "arXiv:2203.15556"),
    System(9, "Over-training law", "scalebound.scaling.laws.overtraining:Overtraining", "law", "scalebound fit T.csv --law overtraining", "arXiv:2403.08540"),
    System(10, "Error from loss", "scalebound.scaling.laws.exponential_error:ExponentialError", "law", "scalebound fit T.csv --law exponential-error", "arXiv:2403.08540"),
    System(11, "Accuracy sigmoid", "scalebound.scaling.laws.sigmoid:Sigmoid", "law", "scalebound fit T.csv --law sigmoid", "arXiv:2412.04403"),
    System(12, "Repeated data", "scalebound.scaling.laws.repetition:Repetition", "law", "scalebound fit T.csv --law repetition", "arXiv:2305.16264"),
    System(13, "Learning-rate annealing law", "scalebound.scaling.laws.annealing:Annealing", "law", "scalebound fit T.csv --law annealing", "arXiv:2408.11029"),
    System(14, "Multi-power law", "scalebound.scaling.laws.multipower:MultiPower", "law", "scalebound fit T.csv --law multipower", "arXiv:2503.12811"),
    System(15, "Critical batch size", "scalebound.scaling.laws.critical_batch:CriticalBatch", "law", "scalebound fit T.csv --law critical-batch", "arXiv:2001.08361"),
    System(16, "PassUntil", "scalebound.scaling.laws.passuntil:PassUntil", "law", "scalebound fit T.csv --law passuntil", "arXiv:2310.03262"),
    System(17, "Data filtering utilities", "scalebound.scaling.laws.filtering:Filtering", "law", "scalebound fit T.csv --law filtering", "arXiv:2404.07177"),
    System(20, "Cooldown from a constant rate", "scalebound.scaling.laws.cooldown:Cooldown", "law",
           "scalebound fit T.csv --law cooldown --group run --begin set=hot --end set=cold", "arXiv:2502.06857"),
    System(40, "Muon", "scalebound.train.optim.muon:muon", "optimizer",
           "scalebound train --sizes 20k --recipe R.toml --out RUN", "arXiv:2502.16982", ("torch",)),
    System(41, "Lion", "scalebound.train.optim.lion:lion", "optimizer",
           "scalebound train --sizes 20k --recipe R.toml --out RUN", "arXiv:2302.06675", ("torch",)),
    System(42, "SGD with Nesterov momentum", "scalebound.train.optim.sgd:sgd", "optimizer",
           "scalebound train --sizes 20k --recipe R.toml --out RUN", "Sutskever et al. 2013", ("torch",)),
    System(43, "Cosine schedule", "scalebound.train.schedule.cosine:cosine", "schedule",
           "scalebound train --sizes 20k --recipe R.toml --out RUN", "arXiv:1608.03983", ("torch",)),
    System(44, "Constant schedule with warmup", "scalebound.train.schedule.constant:constant", "schedule",
           "scalebound train --sizes 20k --recipe R.toml --out RUN", "arXiv:2405.18392", ("torch",)),
    System(45, "Cosine cooldown", "scalebound.train.schedule.wsd_cosine:wsd_cosine", "schedule",
           "scalebound train --sizes 20k --recipe R.toml --out RUN", "arXiv:2405.18392", ("torch",)),
    System(46, "Square-root cooldown", "scalebound.train.schedule.wsd_sqrt:wsd_sqrt", "schedule",
           "scalebound train --sizes 20k --recipe R.toml --out RUN", "arXiv:2405.18392", ("torch",)),
    System(47, "Geometric cooldown", "scalebound.train.schedule.wsd_geometric:wsd_geometric", "schedule",
           "scalebound train --sizes 20k --recipe R.toml --out RUN", "arXiv:2404.06395", ("torch",)),
    System(48, "Maximal-update parametrization", "scalebound.train.parametrization:abc_table", "parametrization",
           "scalebound train --sizes 20k --recipe R.toml --out RUN", "arXiv:2203.03466", ("torch",)),
    System(49, "Output z-loss", "scalebound.train.passes:backward", "training", "scalebound train --sizes 20k --recipe R.toml --out RUN", "arXiv:2204.02311", ("torch",)),
    System(50, "Watch on what precedes instabilities", "scalebound.train.watch:before", "training", "scalebound train --sizes 20k --out RUN", "arXiv:2309.14322", ("torch",)),
    System(51, "Learning-rate sweep, its sensitivity and forecast instability", "scalebound.scaling.laws.lr_sensitivity:forecast_onset", "forecast",
           "scalebound train --sweep lr --out RUNS", "arXiv:2309.14322"),
    System(52, "Query-key normalization", "scalebound.models.transformer:Layer", "architecture", "scalebound train --sizes 20k --recipe R.toml --out RUN", "arXiv:2010.04245", ("torch",)),
    System(53, "Cooldowns branched off a stable run", "scalebound.train.branch:branch_run", "training", "scalebound train --cooldown-from RUN --out COOLED", "arXiv:2405.18392", ("torch",)),
    System(54, "Exponential moving average of weights", "scalebound.train.average:WeightAverage", "training",
           "scalebound train --sizes 20k --recipe R.toml --out RUN", "arXiv:2306.03241", ("torch",)),
    System(55, "Gradient noise scale", "scalebound.train.noise_scale:read_noise_scale", "training", "scalebound train --sizes 20k --recipe R.toml --out RUN", "arXiv:1812.06162", ("torch",)),
    System(56, "Steps against batch size from a sweep", "scalebound.scaling.laws.critical_batch:steps_to_loss", "forecast", "scalebound train --sweep batch --out RUNS", "arXiv:1812.06162"),
    System(57, "Mixtures whose weights change over training", "scalebound.data.mixture:build_mixture", "data", "scalebound train --mix M.toml --sizes 60k --out RUNS", "arXiv:2406.03476"),
    System(90, "Fully sharded data parallelism", "scalebound.train.sharded:shard_model", "training", "scalebound train --sizes 20k --shard --out RUN", "arXiv:2304.11277", ("torch",)),
    System(91, "Going back after a divergence, past the batches around it", "scalebound.train.divergence:Divergence", "training", "scalebound train --sizes 20k --on-divergence backoff --out RUN", "arXiv:2204.02311", ("torch",)),
    System(60, "Fine-tunability of equal functions", "scalebound.probe.finetune:probe_finetune", "probe", "scalebound probe finetune", "arXiv:2405.01964", ("torch",)),
    System(61, "Rule extrapolation", "scalebound.probe.rules:probe_rules", "probe", "scalebound probe rules", "arXiv:2409.13728", ("torch",)),
    System(62, "In-context learning on mixtures of hidden Markov models", "scalebound.probe.icl:probe_icl", "probe", "scalebound probe icl", "arXiv:2111.02080", ("torch",)),
    System(63, "In-context learning of permuted labels", "scalebound.probe.labels:probe_labels", "probe", "scalebound probe icl MODEL", "arXiv:2303.03846", ("torch",)),
    System(64, "Room within a loss", "scalebound.probe.room:probe_room", "probe", "scalebound probe room", "arXiv:2011.03395", ("torch",)),
    System(65, "Prefix-prompted extraction", "scalebound.probe.memorization:probe_extraction", "probe", "scalebound probe memorization", "arXiv:2202.07646", ("torch",)),
    System(66, "Counterfactual influence of documents", "scalebound.probe.influence:influences", "probe", "scalebound probe memorization", "arXiv:1906.05271", ("torch",)),
    System(67, "Length generalization by position scheme", "scalebound.probe.length:probe_length", "probe", "scalebound probe length", "arXiv:2305.19466", ("torch",)),
    System(68, "Activation patching", "scalebound.probe.patch:probe_patch", "probe", "scalebound probe patch", "arXiv:2404.15255", ("torch",)),
    System(69, "Intrinsic dimension of a task", "scalebound.probe.dimension:probe_dimension", "probe", "scalebound probe dimension", "arXiv:2012.13255", ("torch",)),
    System(180, "No positions (NoPE)", "scalebound.probe.positions:Positions", "positions", "scalebound probe length --positions none", "arXiv:2305.19466", ("torch",)),
    System(181, "Sinusoidal absolute positions", "scalebound.probe.positions:Absolute", "positions", "scalebound probe length --positions absolute", "arXiv:1706.03762", ("torch",)),
    System(182, "Rotary positions", "scalebound.probe.positions:Rotary", "positions", "scalebound probe length --positions rotary", "arXiv:2104.09864", ("torch",)),
    System(183, "ALiBi", "scalebound.probe.positions:Alibi", "positions", "scalebound probe length --positions alibi", "arXiv:2108.12409", ("torch",)),
    System(184, "T5 relative positions", "scalebound.probe.positions:T5", "positions", "scalebound probe length --positions t5", "arXiv:1910.10683", ("torch",)),
    System(185, "Index hints", "scalebound.probe.length_tasks:problems", "probe task", "scalebound probe length --tasks copy+hints", "arXiv:2310.16028", ("torch",)),
    System(18, "isoFLOP analysis", "scalebound.scaling.laws.isoflop:IsoFlopLaw", "law", "scalebound fit T.csv --law isoflop", "arXiv:2406.19146"),
    System(19, "Crossover of two recipes", "scalebound.scaling.crossover:crossover", "forecast", "scalebound crossover A.json B.json", "arXiv:2409.15156"),
    # certificates and tests: numbers from 100 on
    System(100, "Mixture of exponential supermartingales", "scalebound.certify.mixture:mixture_bound", "bound", "scalebound certify S --package M.sbz", "docs/mathematics.md section 3"),
    System(101, "Trajectory certificate", "scalebound.certify.assemble:certify", "certificate", "scalebound certify ONLINE --method trajectory", "docs/mathematics.md section 9"),
    System(102, "Anytime interval", "scalebound.certify.interval:interval", "test", "scalebound interval S", "arXiv:2010.09686"),
    System(103, "Comparison by e-process", "scalebound.certify.compare:compare", "test", "scalebound compare A B", "arXiv:2210.01948"),
    System(104, "e-BH over several models", "scalebound.certify.compare_many:compare_many", "test", "scalebound compare A B C", "arXiv:2009.02824"),
    System(105, "Zero-shot tests for generated text", "scalebound.certify.detect:detect", "test", "scalebound detect text.txt --model RUN", "arXiv:2501.02406"),
    System(106, "Contamination by exchangeability", "scalebound.certify.contamination:exchangeability", "test",
           "scalebound contamination items.jsonl --model RUN", "arXiv:2310.17623"),
    System(107, "Best of several certificates", "scalebound.certify.best:certify_best", "certificate", "scalebound certify S --package M.sbz --best", "docs/mathematics.md section 15"),
    System(108, "Reusable holdout", "scalebound.certify.holdout:Thresholdout", "test", "scalebound holdout guard.json", "arXiv:1506.02629"),
    System(109, "Prediction sets of partial programs", "scalebound.certify.prediction_sets:calibrate", "prediction set",
           "scalebound prediction-set calibration.jsonl", "arXiv:2302.08703"),
    System(110, "Prompt bounds with a language-model prior", "scalebound.certify.prompts:certify_prompts", "bound", "scalebound certify-prompt table.json", "arXiv:2310.03957"),
    System(111, "Token-level bound by Azuma's inequality", "scalebound.certify.survey:azuma_bound", "bound", "scalebound certify S --package M.sbz --survey", "arXiv:2407.18158"),
    System(112, "Survey of published bounds", "scalebound.certify.survey:survey", "certificate", "scalebound certify S --package M.sbz --survey", "docs/mathematics.md section 19"),
    System(113, "Dataset inference by permutation of documents", "scalebound.certify.leakage:leakage", "test", "scalebound leak WINDOW FRESH", "arXiv:2406.06443"),
    System(114, "Low-rank adaptation", "scalebound.models.partial:Partial", "fine-tuning", "scalebound train --from MODEL --adapter lora:8", "arXiv:2106.09685", ("torch",)),
    System(115, "Training in a random subspace", "scalebound.models.partial:Partial", "fine-tuning", "scalebound train --from MODEL --adapter subspace:512", "arXiv:1804.08838", ("torch",)),
    System(116, "PAC-Bayes with a Gaussian posterior for martingales", "scalebound.certify.pac_bayes:pac_bayes_bound", "bound", "scalebound certify S --package M.sbz --survey --weights RUN", "arXiv:1110.6886"),
    System(117, "PAC-Bayes sharpness", "scalebound.certify.pac_bayes:sharpness_measure", "bound", "scalebound certify S --package M.sbz --survey --weights RUN", "arXiv:1706.08947"),
    System(118, "Spectral complexity", "scalebound.certify.pac_bayes:spectral_measure", "bound", "scalebound certify S --package M.sbz --survey --weights RUN", "arXiv:1706.08498"),
    System(70, "Online n-gram reference with Witten-Bell interpolation", "scalebound.measure.ngram:ngram_losses", "reference",
           "scalebound reference ngram STREAM --out R.safetensors", "Witten and Bell 1991, IEEE Trans. Inf. Theory 37(4)", ("torch",)),
    # formats of other programs, kept as they are
    System(95, "NF4 with double quantization", "scalebound.compress.foreign.bitsandbytes:unpack_four_bits", "format", "scalebound compress FOLDER --keep-codes --out M.sbz", "arXiv:2305.14314", ("torch",)),
    System(96, "LLM.int8", "scalebound.compress.foreign.bitsandbytes:unpack_eight_bits", "format", "scalebound compress FOLDER --keep-codes --out M.sbz", "arXiv:2208.07339", ("torch",)),
    System(97, "AWQ", "scalebound.compress.foreign.packed:unpack_awq", "format", "scalebound compress FOLDER --keep-codes --out M.sbz", "arXiv:2306.00978", ("torch",)),
    System(98, "Block types of GGUF", "scalebound.compress.foreign.gguf_blocks:unpack", "format", "scalebound compress M.gguf --keep-codes --out M.sbz", "ggml, ggml-quants.c", ("torch",)),
    # compression: numbers from 120 on
    System(120, "GPTQ", "scalebound.compress.gptq:gptq", "quantizer", "scalebound compress M --quantizer gptq --allocation uniform --bits 3 --stream S --out M.sbz", "arXiv:2210.17323", ("torch",)),
    System(121, "Reverse water-filling over Fisher information", "scalebound.compress.allocation:water_filling", "quantizer",
           "scalebound compress M --quantizer gptq --bits 3 --stream S --out M.sbz", "Cover and Thomas 2006, section 10.3.3; arXiv:1503.05671", ("torch",)),
    System(122, "Wanda", "scalebound.compress.pruning:keep_wanda", "pruning", "scalebound compress M --quantizer gptq --prune wanda --bits 2 --stream S --out M.sbz", "arXiv:2306.11695", ("torch",)),
    System(123, "SparseGPT", "scalebound.compress.gptq:gptq", "pruning", "scalebound compress M --quantizer gptq --prune sparsegpt --bits 2 --stream S --out M.sbz", "arXiv:2301.00774", ("torch",)),
    System(99, "Gradual magnitude pruning", "scalebound.train.sparsity.gradual:GradualPruning", "pruning", "scalebound train --sizes 60k --recipe R.toml --out RUN", "arXiv:1710.01878", ("torch",)),
    System(125, "Sparse pre-training, dense fine-tuning (SPDF)", "scalebound.train.sparsity.spdf:SparsePretraining", "pruning", "scalebound train --sizes 60k --recipe R.toml --out RUN", "arXiv:2303.10464", ("torch",)),
    System(126, "EvoPress, dropped modules", "scalebound.train.dropping:drop_blocks", "pruning", "scalebound compress M --quantizer gptq --drop 0.25 --bits 2 --stream S --out M.sbz", "arXiv:2410.14649", ("torch",)),
    System(127, "EvoPress, shares of zeros", "scalebound.train.evolution:sparsity_levels", "pruning", "scalebound compress M --quantizer gptq --prune sparsegpt --allocation evolution --bits 2 --stream S --out M.sbz", "arXiv:2410.14649", ("torch",)),
    System(124, "EvoPress", "scalebound.compress.selection:evolve", "quantizer", "scalebound compress M --quantizer gptq --allocation evolution --bits 2 --stream S --out M.sbz", "arXiv:2410.14649", ("torch",)),
    System(128, "Knowledge distillation", "scalebound.train.distillation:forward_divergence", "distillation", "scalebound compress RUN --finetune --teacher LARGER --stream S --out M.sbz", "arXiv:1503.02531", ("torch",)),
    System(129, "BD-KD, balanced divergences", "scalebound.train.distillation:balanced_divergence", "distillation", "scalebound compress RUN --finetune --teacher LARGER --divergence balanced --stream S --out M.sbz", "arXiv:2212.12965", ("torch",)),
)
