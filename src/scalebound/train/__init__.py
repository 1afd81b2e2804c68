"""A stream and a recipe become a run: checkpoints, a log, and the loss of every training token before the update that used it.

In: a :class:`~scalebound.data.Stream` and a :class:`Recipe`. Out: a run folder. Start reading at :mod:`~scalebound.train.recipe` (what is
derived from the number of parameters), then :mod:`~scalebound.train.loop` (one run) and :mod:`~scalebound.train.ladder` (many);
:mod:`~scalebound.train.finetune` trains a finished run's rounding for its certificate (:mod:`~scalebound.train.packages`: of whole ladders; :mod:`~scalebound.train.distillation`: with a teacher); :mod:`~scalebound.train.posttraining` rounds any
finished model with the help of text (here because it runs the model: `compress` is given arrays). Methods the recipe names are in
:mod:`~scalebound.train.optim`, :mod:`~scalebound.train.schedule`, :mod:`~scalebound.train.sparsity` and :mod:`~scalebound.train.parametrization`. What to
leave out of a finished model, or to round more coarsely, is searched by :mod:`~scalebound.train.evolution` and :mod:`~scalebound.train.dropping`.
"""

from scalebound.train.branch import branch_run as branch_run
from scalebound.train.branch import cooldown_recipe as cooldown_recipe
from scalebound.train.budget import disk_of as disk_of
from scalebound.train.budget import memory_of as memory_of
from scalebound.train.calibrate import seconds_for as seconds_for
from scalebound.train.coordinates import coordinates as coordinates
from scalebound.train.divergence import Diverged as Diverged
from scalebound.train.explain import commented_recipe as commented_recipe
from scalebound.train.explain import formulas as formulas
from scalebound.train.finetune import Finetuned as Finetuned
from scalebound.train.finetune import default_steps as default_steps
from scalebound.train.finetune import finetune as finetune
from scalebound.train.ladder import train_ladder as train_ladder
from scalebound.train.loop import RunInfo as RunInfo
from scalebound.train.loop import train_run as train_run
from scalebound.train.packages import package_ladder as package_ladder
from scalebound.train.packages import package_run as package_run
from scalebound.train.parametrization import abc_table as abc_table
from scalebound.train.posttraining import Calibrated as Calibrated
from scalebound.train.posttraining import quantize_calibrated as quantize_calibrated
from scalebound.train.recipe import Recipe as Recipe
from scalebound.train.recipe import derive_continuation as derive_continuation
from scalebound.train.recipe import derive_recipe as derive_recipe
