"""The ranks that torchrun sets in the environment."""

import pytest
import torch

from ulzoo.runtime.processes import (
    launched_rank,
    launched_world_size,
    local_device,
    process_group,
    torchrun_ranks,
    was_restarted,
)

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@pytest.fixture
def environment(monkeypatch):
    """Set the three variables; None removes one."""

    def change(*texts: str | None) -> None:
        for name, text in zip(NAMES, texts, strict=True):
            if text is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, text)

    return change


def test_the_ranks_of_torchrun(environment):
    environment("5", "8", "1")
    assert torchrun_ranks() == (5, 8, 1) and launched_rank() == 5 and launched_world_size() == 8


@pytest.mark.parametrize(
    "texts",
    [
        (None, None, None),
        ("", "", ""),
        ("0", None, None),
        (None, "4", "0"),
        ("", "4", "0"),
        ("0", "1", None),
        ("0", "1", ""),
        (" ", "1", "0"),
    ],
)
def test_a_single_process(texts, environment):
    environment(*texts)
    assert torchrun_ranks() is None and launched_rank() == 0 and launched_world_size() == 1
    assert local_device(torch.device("cuda")) == torch.device("cuda")
    with process_group(torch.device("cpu"), 1.0) as group:
        assert group.world_size == 1 and group.is_main


@pytest.mark.parametrize(
    "texts, message",
    [
        (("0", "2", None), "RANK=0, WORLD_SIZE=2, LOCAL_RANK=, where numbers are expected"),
        (("0", "2", ""), "RANK=0, WORLD_SIZE=2, LOCAL_RANK=, where numbers are expected"),
        (("a", "2", "0"), "RANK=a, WORLD_SIZE=2, LOCAL_RANK=0, where numbers are expected"),
        (("-1", "2", "0"), "RANK=-1, WORLD_SIZE=2, LOCAL_RANK=0, where numbers are expected"),
        (("2", "2", "0"), "where ranks are below WORLD_SIZE"),
        (("0", "0", "0"), "where ranks are below WORLD_SIZE"),
    ],
)
def test_an_environment_that_torchrun_does_not_set(texts, message, environment):
    environment(*texts)
    with pytest.raises(ValueError, match=r"^the environment has .*; start with torchrun, .*, or unset them$") as error:
        launched_world_size()
    assert message in str(error.value)


@pytest.mark.parametrize("text, restarted", [(None, False), ("", False), ("0", False), ("2", True)])
def test_restarts(text, restarted, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    if text is not None:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", text)
    assert was_restarted() is restarted
