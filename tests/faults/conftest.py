from __future__ import annotations

import pytest

from .bench import demo_bench, regular_bench


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    return demo_bench(tmp_path_factory.mktemp("battery"))


@pytest.fixture(scope="session")
def regular(tmp_path_factory):
    return regular_bench(tmp_path_factory.mktemp("battery"))
