"""The report room: artefact files become one offline HTML page.

In: the folder of ``scalebound demo`` (``demo.json`` and the certificates, logs, table and fits it names), records of probes, or both. Out:
``report.html``.
:mod:`~scalebound.report.folder` reads and cross-checks the files, :mod:`~scalebound.report.figures` turns them into plotly figures
(with :mod:`~scalebound.report.drawing`; :mod:`~scalebound.report.probes` does both for records of probes), :mod:`~scalebound.report.words` into sentences, :mod:`~scalebound.report.page` into HTML.
No number on the page comes from anything but those files. Start reading at :func:`~scalebound.report.page.write_report`.
"""

from scalebound.report.page import Page as Page
from scalebound.report.page import build_page as build_page
from scalebound.report.page import default_path as default_path
from scalebound.report.page import write_report as write_report
