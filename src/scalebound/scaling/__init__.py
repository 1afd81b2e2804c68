"""scaling: tables of runs become fitted laws, and fitted laws become forecasts and plans.

In: a table (params, tokens, loss, ...). Out: a :class:`Fit` at the global optimum of its objective, with intervals, and what follows
from it. One law a file in ``laws/``; needs numpy and msgspec only. Start reading at :mod:`scalebound.scaling.fit`, then
:mod:`scalebound.scaling.optimum` (why it is the optimum) and :mod:`scalebound.scaling.forecast`.
"""

from scalebound.scaling.backtest import Backtest as Backtest
from scalebound.scaling.backtest import backtest as backtest
from scalebound.scaling.backtest import widened as widened
from scalebound.scaling.choose import choose as choose
from scalebound.scaling.cooldown import cooldowns as cooldowns
from scalebound.scaling.crossover import Crossover as Crossover
from scalebound.scaling.crossover import crossover as crossover
from scalebound.scaling.design import next_runs as next_runs
from scalebound.scaling.emergence import Emergence as Emergence
from scalebound.scaling.emergence import emergence as emergence
from scalebound.scaling.fit import fit as fit
from scalebound.scaling.fitted import Fit as Fit
from scalebound.scaling.fitted import load_fit as load_fit
from scalebound.scaling.forecast import Forecast as Forecast
from scalebound.scaling.forecast import forecast as forecast
from scalebound.scaling.forecast import law_of as law_of
from scalebound.scaling.isoflop import IsoFlop as IsoFlop
from scalebound.scaling.isoflop import isoflop as isoflop
from scalebound.scaling.laws import LAWS as LAWS
from scalebound.scaling.laws import function_law as function_law
from scalebound.scaling.laws import get_law as get_law
from scalebound.scaling.laws.protocol import Law as Law
from scalebound.scaling.laws.protocol import Parameter as Parameter
from scalebound.scaling.objective import Objective as Objective
from scalebound.scaling.observational import Observational as Observational
from scalebound.scaling.observational import principal_components as principal_components
from scalebound.scaling.plan import Plan as Plan
from scalebound.scaling.plan import cheapest_for_loss as cheapest_for_loss
from scalebound.scaling.plan import overtraining_cost as overtraining_cost
from scalebound.scaling.plan import plan as plan
from scalebound.scaling.runs import last_mean as last_mean
from scalebound.scaling.runs import smoothed as smoothed
from scalebound.scaling.table import Table as Table
from scalebound.scaling.table import from_columns as from_columns
from scalebound.scaling.table import read_table as read_table
