"""What equal loss does not tell: models with the same loss that extrapolate or fine-tune differently.

In: a model's folder, or nothing (small models are trained in the probe). Out: rows of losses, rates and their intervals. Start
reading at :mod:`~scalebound.probe.finetune` (equal functions, other weights) and :mod:`~scalebound.probe.rules` (equal losses, other
completions), then :mod:`~scalebound.probe.length` (equal at short lengths, other at long ones), :mod:`~scalebound.probe.patch` (which
activation carries an answer) and :mod:`~scalebound.probe.dimension` (how many numbers a task needs);
:mod:`~scalebound.probe.reparametrize`, :mod:`~scalebound.probe.grammar` and :mod:`~scalebound.probe.choosing` hold what they are made of,
:mod:`~scalebound.probe.records` turns rows into the record that is printed, saved and drawn.
"""

from scalebound.probe.choosing import Question as Question
from scalebound.probe.choosing import questions as questions
from scalebound.probe.dimension import Dimension as Dimension
from scalebound.probe.dimension import candidates as candidates
from scalebound.probe.dimension import probe_dimension as probe_dimension
from scalebound.probe.dimension import relative_gain as relative_gain
from scalebound.probe.dimension_bounds import DimensionBound as DimensionBound
from scalebound.probe.dimension_bounds import union_bound as union_bound
from scalebound.probe.exact import clopper_pearson as clopper_pearson
from scalebound.probe.exact import over_seeds as over_seeds
from scalebound.probe.finetune import invariant as invariant
from scalebound.probe.finetune import probe_finetune as probe_finetune
from scalebound.probe.finetune import small_model as small_model
from scalebound.probe.finetune import tune as tune
from scalebound.probe.grammar import GRAMMARS as GRAMMARS
from scalebound.probe.grammar import Grammar as Grammar
from scalebound.probe.grammar import construction as construction
from scalebound.probe.grammar import divergence as divergence
from scalebound.probe.grammar import from_sampler as from_sampler
from scalebound.probe.grammar_file import read_grammar as read_grammar
from scalebound.probe.hmm import Mixture as Mixture
from scalebound.probe.hmm import divergences as divergences
from scalebound.probe.hmm import random_mixture as random_mixture
from scalebound.probe.icl import InContext as InContext
from scalebound.probe.icl import learner as learner
from scalebound.probe.icl import probe_icl as probe_icl
from scalebound.probe.influence import influences as influences
from scalebound.probe.influence import permutation_p as permutation_p
from scalebound.probe.influence import read_influence_table as read_influence_table
from scalebound.probe.labels import label_prompt as label_prompt
from scalebound.probe.labels import likeliest_label as likeliest_label
from scalebound.probe.labels import probe_labels as probe_labels
from scalebound.probe.length import LengthRow as LengthRow
from scalebound.probe.length import probe_length as probe_length
from scalebound.probe.length import right_answers as right_answers
from scalebound.probe.length import summarize as summarize
from scalebound.probe.length import train_decoder as train_decoder
from scalebound.probe.length_program import counting_program as counting_program
from scalebound.probe.length_tasks import TASKS as TASKS
from scalebound.probe.length_tasks import problems as problems
from scalebound.probe.llama import logits_of as logits_of
from scalebound.probe.llama import read_llama as read_llama
from scalebound.probe.llama import untied as untied
from scalebound.probe.memorization import departures as departures
from scalebound.probe.memorization import draw_spans as draw_spans
from scalebound.probe.memorization import probe_extraction as probe_extraction
from scalebound.probe.patch import PITFALLS as PITFALLS
from scalebound.probe.patch import probe_patch as probe_patch
from scalebound.probe.patch_tasks import Pairs as Pairs
from scalebound.probe.patch_tasks import read_pairs as read_pairs
from scalebound.probe.patch_tasks import repeated_pairs as repeated_pairs
from scalebound.probe.patch_tasks import repeating_model as repeating_model
from scalebound.probe.patch_tasks import words_of as words_of
from scalebound.probe.positions import POSITIONS as POSITIONS
from scalebound.probe.positions import Decoder as Decoder
from scalebound.probe.records.dimension import dimension_record as dimension_record
from scalebound.probe.records.finetune import finetune_record as finetune_record
from scalebound.probe.records.icl import icl_record as icl_record
from scalebound.probe.records.icl import labels_record as labels_record
from scalebound.probe.records.length import length_record as length_record
from scalebound.probe.records.memorization import memorization_record as memorization_record
from scalebound.probe.records.patch import patch_record as patch_record
from scalebound.probe.records.room import room_record as room_record
from scalebound.probe.records.rules import rules_record as rules_record
from scalebound.probe.reparametrize import TRANSFORMATIONS as TRANSFORMATIONS
from scalebound.probe.reparametrize import fold as fold
from scalebound.probe.reparametrize import permute_heads as permute_heads
from scalebound.probe.reparametrize import permute_neurons as permute_neurons
from scalebound.probe.reparametrize import query_key as query_key
from scalebound.probe.reparametrize import rotate_residual as rotate_residual
from scalebound.probe.reparametrize import up_down as up_down
from scalebound.probe.reparametrize import value_output as value_output
from scalebound.probe.room import Item as Item
from scalebound.probe.room import Room as Room
from scalebound.probe.room import probe_room as probe_room
from scalebound.probe.rules import exact_pair as exact_pair
from scalebound.probe.rules import probe_rules as probe_rules
