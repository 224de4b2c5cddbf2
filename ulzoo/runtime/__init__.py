"""The machine that a program runs on: its devices, the processes that work together, and seeds."""
