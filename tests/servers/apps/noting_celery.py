"""A celery application whose broker is at REDIS_URL: its task signs in and out in a process of its pool."""

import os

from celery import Celery
from noting import visit

app = Celery(broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.task_default_queue = os.environ["PREFIX"] + "celery"
app.conf.broker_connection_retry_on_startup = True


@app.task(name="visit")
def task():
    return visit(), os.getpid()
