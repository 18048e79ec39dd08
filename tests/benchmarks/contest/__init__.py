"""The contest behind `side_by_side.py`.

forms.py       how much is done
lineup.py      who takes part, and how far each can go
player.py      one contestant's process, as the driver sees it: a question a line, an answer a line
contestant.py  that process, for those in Python: loops.py is what is timed in it, adapters.py what each method is,
               together with plain_port.py and flask_sessions.py
npm.cjs        that process, for the npm package
operations.py  the rounds: each operation, everybody in turn
sections.py    the rest: pieces.py, memory, lateness, threads, idleness, Redis, and start_up.py
results.py     what was measured, as one list of cells; medians, ratios, spreads
promises.py    what the project has promised, held against the cells
tables.py      the cells as tables, for the terminal and for the page
plots.py       the pictures
page.py        docs/performance.md
"""
