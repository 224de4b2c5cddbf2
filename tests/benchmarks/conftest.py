"""`benchmarks` is a package in the root of the repository that is not installed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
