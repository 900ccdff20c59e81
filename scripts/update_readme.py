"""Run the README's commands again and paste what they print.

    .venv/bin/python scripts/update_readme.py

A block between ```console fences whose lines begin with ``$ `` is replaced by those lines, each followed by its real
output. Commands run in an empty folder with ``streamparity`` on the PATH and the repository as ``$REPO``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def rerun(block: str, folder: str) -> str:
    """The block's commands, each with what it prints now."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "REPO": str(REPO)}
    lines = []
    for command in (line[2:] for line in block.splitlines() if line.startswith("$ ")):
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        lines += [f"$ {command}", *(line.rstrip() for line in done.stdout.splitlines())]
    return "\n".join(lines) + "\n"


def main() -> None:
    readme = REPO / "README.md"
    with tempfile.TemporaryDirectory() as folder:
        text = FENCE.sub(lambda match: f"```console\n{rerun(match[1], folder)}```", readme.read_text())
    readme.write_text(text)


if __name__ == "__main__":
    main()
