"""Runs all benchmarks; `--quick` at a tenth of the size, to see that they work."""

import os
import platform
import sys

from benchmarks import spine

if __name__ == "__main__":
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    spine.run(quick="--quick" in sys.argv)
