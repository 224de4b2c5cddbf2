"""The machine a program runs on: processes, devices, derived seeds."""
