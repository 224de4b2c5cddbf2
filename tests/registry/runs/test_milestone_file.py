"""RUN/milestones.json: rows that are complete, or an error that names the file."""

import pytest

from ulzoo.registry.runs.milestone_file import read_milestones


def test_a_damaged_file_is_named(tmp_path):
    assert read_milestones(tmp_path) == []
    for text in ("{", "[]", '{"milestones": [{}]}', '{"milestones": 3}', '{"milestones": [{"step": "1"}]}'):
        (tmp_path / "milestones.json").write_text(text)
        with pytest.raises(ValueError, match=r"milestones.json: damaged, .*; remove it to measure them again"):
            read_milestones(tmp_path)
