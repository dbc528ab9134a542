"""The page of a run: `report.html`, one file that holds everything and opens offline.

`folder` reads what the run wrote and refuses what is broken; `summary` takes means over seeds and says in words what
came out; `charts` computes where marks and ticks stand; `page` fills `template.html.j2` and writes the file.
"""

from regard.report.page import write_report

__all__ = ["write_report"]
