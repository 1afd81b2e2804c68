"""From per-token statistics and a code length to a certificate, an interval or a comparison: pure functions on arrays.

In: losses in stream order (arrays, or :class:`scalebound.core.stats.Stats`), a code length in bits. Out:
:class:`~scalebound.certify.bound.Bound`, or a
:class:`scalebound.core.certificate.Certificate` that a program sharing no code with this one can check.
Start reading at :mod:`~scalebound.certify.product` (the theorem) and :mod:`~scalebound.certify.logsums` (what is summed).
"""

from scalebound.certify.assemble import certify as certify
from scalebound.certify.best import Artefact as Artefact
from scalebound.certify.best import certify_best as certify_best
from scalebound.certify.bound import Bound as Bound
from scalebound.certify.codelength import choice_bits as choice_bits
from scalebound.certify.codelength import package_code_bits as package_code_bits
from scalebound.certify.compare import Comparison as Comparison
from scalebound.certify.compare import compare as compare
from scalebound.certify.compare_many import Ranked as Ranked
from scalebound.certify.compare_many import compare_many as compare_many
from scalebound.certify.contamination import Contamination as Contamination
from scalebound.certify.contamination import exchangeability as exchangeability
from scalebound.certify.detect import Detection as Detection
from scalebound.certify.detect import Scored as Scored
from scalebound.certify.detect import detect as detect
from scalebound.certify.detect import detect_documents as detect_documents
from scalebound.certify.evalues import e_bh as e_bh
from scalebound.certify.freedman import freedman_bound as freedman_bound
from scalebound.certify.grid import DEFAULT_GRID as DEFAULT_GRID
from scalebound.certify.grid import default_grid as default_grid
from scalebound.certify.grid import paper_grid as paper_grid
from scalebound.certify.grid import peaked_grid as peaked_grid
from scalebound.certify.guarded import Guarded as Guarded
from scalebound.certify.guarded import create_holdout as create_holdout
from scalebound.certify.holdout import HoldoutRules as HoldoutRules
from scalebound.certify.holdout import Thresholdout as Thresholdout
from scalebound.certify.holdout import affordable_budget as affordable_budget
from scalebound.certify.interval import Interval as Interval
from scalebound.certify.interval import interval as interval
from scalebound.certify.leakage import Leakage as Leakage
from scalebound.certify.leakage import leakage as leakage
from scalebound.certify.logsums import LogSums as LogSums
from scalebound.certify.mixture import mixture_bound as mixture_bound
from scalebound.certify.mixture import mixture_lower_bound as mixture_lower_bound
from scalebound.certify.prediction_sets import Calibration as Calibration
from scalebound.certify.prediction_sets import allowed_misses as allowed_misses
from scalebound.certify.prediction_sets import calibrate as calibrate
from scalebound.certify.product import product_bound as product_bound
from scalebound.certify.product import product_lower_bound as product_lower_bound
from scalebound.certify.prompts import binomial_upper as binomial_upper
from scalebound.certify.prompts import certify_prompts as certify_prompts
from scalebound.certify.prompts import search_prompt as search_prompt
from scalebound.certify.smoothing import smooth_anchored as smooth_anchored
from scalebound.certify.smoothing import smooth_reference as smooth_reference
from scalebound.certify.smoothing import smooth_uniform as smooth_uniform
from scalebound.certify.smoothing import uniform_range as uniform_range
from scalebound.certify.survey import survey as survey
from scalebound.certify.trajectory import LiveTrajectory as LiveTrajectory
