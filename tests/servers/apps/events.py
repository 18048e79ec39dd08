"""The streams of the guarded applications; each generator prints that it was closed."""

import asyncio
import time


def ticks():
    """Yield something from time to time, as a plain generator has to that shall end."""
    try:
        while True:
            yield "data: tick\n\n"
            time.sleep(0.02)
    finally:
        print("The stream was closed", flush=True)


async def silence():
    """Yield once, and then nothing more."""
    try:
        yield "data: hello\n\n"
        await asyncio.Event().wait()
    finally:
        print("The stream was closed", flush=True)
