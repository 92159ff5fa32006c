"""Write `requirements.lock` and `requirements-dev.lock` from pyproject.toml (`make lock`)."""

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HEADER = "# Every package with its exact version. Made by `make lock` from pyproject.toml; do not edit.\n"
# torch's wheels from PyPI bring CUDA along, those of a CPU index do not. pip decides on the machine.
LEFT_TO_PIP = re.compile(r"^(nvidia-|cuda-|triton==)")


def compile_lock(target: str, *options: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "piptools", "compile", "--quiet", "--upgrade", "--strip-extras", "--no-header"]
        + ["--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host"]
        + ["--no-emit-options", "--output-file", target, *options, "pyproject.toml"],
        cwd=REPOSITORY,
        check=True,
    )
    path = REPOSITORY / target
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith(("#", "-"))]
    pins = [re.sub(r"^(torch==[\d.]+)\+\w+", r"\1", line) for line in lines if not LEFT_TO_PIP.match(line)]
    path.write_text(HEADER + "\n".join(pins) + "\n")


if __name__ == "__main__":
    compile_lock("requirements.lock")
    compile_lock("requirements-dev.lock", "--extra", "dev", "--constraint", "requirements.lock")
