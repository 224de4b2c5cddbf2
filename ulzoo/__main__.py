"""`python -m ulzoo` is the command `ulzoo`."""

from importlib import import_module

import_module("ulzoo.cli").main()
