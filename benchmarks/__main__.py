"""Runs all benchmarks, or those named; `--quick` at a tenth of the size, to see that they work.

python -m benchmarks [spine] [merges] [histories] [--quick]
"""

import os
import platform
import sys

from benchmarks import histories, merges, spine

_ALL = {"spine": spine.run, "merges": merges.run, "histories": histories.run}

if __name__ == "__main__":
    quick = "--quick" in sys.argv
    named = [name for name in sys.argv[1:] if name in _ALL] or [*_ALL]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for name in named:
        _ALL[name](quick=quick)
