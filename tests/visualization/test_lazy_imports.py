"""The package hands on its names without importing torch or a codec before one is used."""

import subprocess
import sys

import ulzoo.visualization


def test_every_exported_name_exists():
    assert set(ulzoo.visualization.__all__) == ulzoo.visualization._MODULES.keys()
    assert all(callable(getattr(ulzoo.visualization, name)) for name in ulzoo.visualization.__all__)


def test_the_package_is_light():
    code = "import sys, ulzoo.visualization; assert not {'torch', 'av', 'PIL'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
