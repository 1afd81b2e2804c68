"""The whole way in one function: text to a verified, forecast, drawn ladder.

In: a text, or nothing. Out: a folder laid out as docs/formats.md says, with ``demo.json`` written last and ``report.html`` drawn from it.
This is the only room besides ``cli`` that imports every other. Start reading at :func:`~scalebound.demo.spine.run_demo`;
:func:`~scalebound.demo.frontier.run_frontier` goes the same way with one model and many packages.
"""

from scalebound.demo.frontier import run_frontier as run_frontier
from scalebound.demo.spine import run_demo as run_demo
