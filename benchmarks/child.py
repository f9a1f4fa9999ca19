"""Runs one flow in a process of its own and prints how long the engine took, without imports and start-up.

python -m benchmarks.child FLOW WORKERS
"""

import sys
import time

from bytewax.run import cli_main

from benchmarks import orders

if __name__ == "__main__":
    flow = getattr(orders, sys.argv[1])()
    began = time.perf_counter()
    cli_main(flow, workers_per_process=int(sys.argv[2]))  # type: ignore[no-untyped-call]
    print(f"seconds: {time.perf_counter() - began:.3f}", flush=True)
