"""`benchmarks` is a package of the repository alone, at its root."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
