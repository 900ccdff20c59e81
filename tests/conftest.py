from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def demo_path() -> Path:
    import streamparity

    return Path(streamparity.__file__).parent / "data" / "demo.nemo"


@pytest.fixture(scope="session")
def loaded(demo_path: Path) -> Any:
    import torch

    from streamparity.reference.nemo import load_model

    torch.set_num_threads(1)
    return load_model(str(demo_path))
