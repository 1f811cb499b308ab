"""What ``pip install detq`` gives on an interpreter: how large it is, and whether it finds boxes.

    python tools/fresh_install.py MODEL SOURCE --python python3.13 --extras demo,scale

Builds a wheel of this checkout, installs it with the extras from the package index into a virtual
environment of its own, and runs ``detq predict`` there. ``--headless`` puts OpenCV's build without
a window in the place of the usual one, as docs/troubleshooting.md says. With ``--quickstart``,
which needs the extras quantize and torch, ``detq quickstart`` runs too.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = {"pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth"}
"""What a new virtual environment holds by itself."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--extras", default="")
    parser.add_argument("--constraint", type=Path, help="such as constraints.txt")
    parser.add_argument("--headless", action="store_true")
    parser.add_argument("--quickstart", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([arguments.python, "-m", "venv", folder / "venv"], check=True)
        pip = [folder / "venv/bin/python", "-m", "pip", "--quiet"]
        left_out = shutil.ignore_patterns(".*", "build", "docs", "tests", "*.egg-info")
        shutil.copytree(ROOT, folder / "checkout", ignore=left_out)
        build = ["wheel", "--no-deps", "--wheel-dir", folder, folder / "checkout"]
        subprocess.run([*pip, *build], check=True, stderr=subprocess.DEVNULL)
        wheel = next(folder.glob("*.whl"))
        wanted = f"{wheel}[{arguments.extras}]" if arguments.extras else str(wheel)
        limits = ["--constraint", arguments.constraint] if arguments.constraint else []
        subprocess.run([*pip, "install", *limits, wanted], check=True)
        if arguments.headless:
            subprocess.run([*pip, "uninstall", "--yes", "opencv-python"], check=True)
            subprocess.run([*pip, "install", *limits, "opencv-python-headless"], check=True)
        _tell_size(next((folder / "venv/lib").glob("python*/site-packages")))
        known_name = not arguments.model.exists()
        model = arguments.model if known_name else arguments.model.resolve()
        command = [folder / "venv/bin/detq", "predict", model]
        subprocess.run([*command, arguments.source.resolve()], check=True, cwd=folder)
        if arguments.quickstart:
            quick = [folder / "venv/bin/detq", "quickstart", "--images", "60"]
            subprocess.run(quick, check=True, cwd=folder)


def _tell_size(site: Path) -> None:
    """Without the installer; what Python compiles while it installs counts."""
    sizes: dict[str, int] = {}
    for path in site.rglob("*"):
        top = path.relative_to(site).parts[0]
        if path.is_file() and top.partition("-")[0] not in TOOLS and top not in TOOLS:
            sizes[top] = sizes.get(top, 0) + path.stat().st_size
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:8]
    print(f"{sum(sizes.values()) / 1e6:.0f} MB installed")
    print(*(f"{name} {sizes[name] / 1e6:.0f}" for name in largest), sep=", ")


if __name__ == "__main__":
    main()
