"""The measured peak."""

import torch

from ulzoo.training import peak


def test_the_best_of_many_products_counts(monkeypatch):
    seconds = iter([3.0, 1.0, 2.0] + [5.0] * 10**6)
    monkeypatch.setattr(peak, "_seconds", lambda a, b, out: next(seconds))
    assert peak.matmul_peak(torch.device("cpu"), torch.float32) == 2 * 1024**3


def test_a_processor_is_measured():
    assert 1e8 < peak.matmul_peak(torch.device("cpu"), torch.float32) < 1e15
