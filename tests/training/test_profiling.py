"""Measured speed of matrix products."""

from itertools import chain, repeat

import torch

from ulzoo.training import profiling

CPU = torch.device("cpu")


def test_the_quickest_of_many_products_counts(monkeypatch):
    seconds = chain([3.0, 1.0, 2.0], repeat(5.0))
    monkeypatch.setattr(profiling, "_seconds", lambda a, b, out: next(seconds))
    assert profiling.matmul_speed(CPU, torch.float32, 16) == 2 * 16**3


def test_the_best_side_counts(monkeypatch):
    monkeypatch.setitem(profiling.MATRIX_SIDES, "cpu", (1, 3, 2))
    monkeypatch.setattr(profiling, "matmul_speed", lambda device, dtype, side: {1: 10.0, 3: 30.0, 2: 20.0}[side])
    assert profiling.matmul_peak(CPU, torch.float32) == 30.0


def test_a_processor_is_measured():
    assert 1e8 < profiling.matmul_peak(CPU, torch.float32) < 1e15
