"""The zoo's page is that of the released models, and every model has its picture."""

from benchmarks import zoo
from ulzoo.registry.zoo.catalogue import releases


def test_the_page_is_up_to_date() -> None:
    assert zoo.PAGE.read_text(encoding="utf-8") == zoo.text(), "run `make zoo`"


def test_every_released_model_has_a_picture() -> None:
    assert {path.name for path in zoo.PICTURES.iterdir()} == set(map(zoo.picture_name, releases()))
