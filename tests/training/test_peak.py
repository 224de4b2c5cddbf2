"""The measured peak."""

from itertools import chain, repeat

import torch

from ulzoo.training import peak


def test_the_best_of_many_products_counts(monkeypatch):
    seconds = chain([3.0, 1.0, 2.0], repeat(5.0))
    monkeypatch.setattr(peak, "_seconds", lambda a, b, out: next(seconds))
    assert peak.matmul_peak(torch.device("cpu"), torch.float32) == 2 * 1024**3


def test_a_processor_is_measured():
    assert 1e8 < peak.matmul_peak(torch.device("cpu"), torch.float32) < 1e15
