"""A pool of `multiprocessing` whose processes sign in and out; the arguments are how it starts them, and how often."""

import multiprocessing
import sys
import threading

from noting import visit

if __name__ == "__main__":
    method, tasks = sys.argv[1], int(sys.argv[2])
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["noting"])
    visit()  # so that threads and connections are there
    stop = threading.Event()

    def work():
        while not stop.wait(0.05):
            visit()

    busy = threading.Thread(target=work)
    busy.start()
    with context.Pool(4) as pool:
        right = pool.map(visit, ["Luca"] * tasks, chunksize=1)
        print(right.count(True), flush=True)
        stop.set()
        busy.join()
        sys.stdin.read()  # until all ends have been announced: a process that is gone announces none
        pool.close()
        pool.join()
