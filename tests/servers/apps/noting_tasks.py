"""Sends tasks to `noting_celery` until so many processes have answered as the argument says; prints the answers."""

import os
import sys

from celery import Celery

app = Celery(broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.task_default_queue = os.environ["PREFIX"] + "celery"
processes, answers = set(), set()
while len(processes) < int(sys.argv[1]):
    for result in [app.send_task("visit") for _ in range(10)]:
        answer, process = result.get(timeout=60)
        answers.add(answer)
        processes.add(process)
print(answers, flush=True)
