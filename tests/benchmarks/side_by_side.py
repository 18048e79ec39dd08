"""What this library costs, side by side with the npm package, a plain port of it, two caches and Flask-Session.

    python tests/benchmarks/side_by_side.py [--quick] [--docs docs] [--json FILE]

Each contestant keeps its sessions in a process of its own and times itself with its own clock. They come in turn,
operation by operation and round by round, in an order that is drawn anew each time, so that the machine's drift
cancels. Shown are medians over the rounds, and the ratio to the npm package with the quartiles of the ratios of the
rounds. It fails on a wrong answer and never on a time.

It runs on Linux. The npm package comes from npm into the cache folder, once; a redis-server is started for the run and
stopped.
"""

import argparse
import json
import os
import random
import sys
from pathlib import Path

from contest.forms import FULL, QUICK
from contest.lineup import fetch_npm_package
from contest.page import about_this_run, write_page
from contest.player import Broken
from contest.promises import promises_table
from contest.results import Results
from contest.sections import SECTIONS
from contest.tables import all_tables, as_text


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "users-session-manager-benchmark"
    parser.add_argument("--quick", action="store_true", help="under a minute, to see that everything works")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="write performance.md and its plots into it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured into it")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="kept", help="measure nothing, take this")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", default=cache, help="where the npm package is kept")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=list(SECTIONS), help="these sections alone")
    parser.add_argument("--sessions", type=int, nargs="+", help="sizes for the operations, in place of the form's")
    parser.add_argument("--rounds", type=int, help="rounds of the operations, in place of the form's")
    parser.add_argument("--seed", type=int, default=0, help="of the order of turns")
    return parser.parse_args()


def main() -> None:
    asked = options()
    results = Results.from_json(json.loads(asked.kept.read_text())) if asked.kept else measure(asked)
    if asked.json:
        asked.json.write_text(json.dumps(results.to_json(), indent=1) + "\n")
    for tables in all_tables(results, everything=True).values():
        for table in tables:
            print(as_text(table), end="\n\n")
    print(as_text(promises_table(results)))
    if asked.docs:
        write_page(results, asked.docs)


def measure(asked: argparse.Namespace) -> Results:
    random.seed(asked.seed)
    form = QUICK if asked.quick else FULL
    form = form.with_changes(asked.sessions, asked.rounds)
    fetch_npm_package(asked.cache.resolve())
    results = Results(about_this_run(form))
    try:
        for section in asked.only:
            print(f"measuring: {section}", file=sys.stderr)
            SECTIONS[section](results, form, asked.cache.resolve())
    except Broken as failure:
        raise SystemExit(f"broken: {failure}") from failure
    return results


if __name__ == "__main__":
    main()
