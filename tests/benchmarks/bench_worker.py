"""The measured Python processes: each reads one JSON question per line and writes one JSON answer per line."""

import json
import os
import sys


def serve(target: object) -> None:
    """Answer each question on the standard input with the method of `target` that it names."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(getattr(target, question.pop("do"))(**question)), file=answers, flush=True)
    os._exit(0)  # does not wait for ten thousand timer threads
