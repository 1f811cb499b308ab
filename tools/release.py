"""Makes what is published, the same to the byte wherever it is made: ``dist/``.

    python tools/release.py dist --url https://github.com/OWNER/NAME

A source distribution of this checkout, and the wheel that comes of it. Times are those of the last
commit, or $SOURCE_DATE_EPOCH. ``--url`` is where the repository can be read: relative links and
pictures of README, which package indices do not resolve, become absolute in what is published, and
the address is among the project's. It stands nowhere in the repository.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(
    *(".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info"),
    *("build", "dist", "out", "runs"),
)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")
_BUILD = (
    "import os, sys; os.umask(0o022); from setuptools import build_meta; "
    "build_meta.build_{}(sys.argv[1])"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", help="of the repository, as GitHub writes it")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for path in build(arguments.folder.resolve(), _time_s(), url=arguments.url):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}")
    if not arguments.url:
        print("no --url: README's links lead nowhere on a package index", file=sys.stderr)


def build(folder: Path, time_s: int, *, url: str | None = None) -> tuple[Path, Path]:
    """Source distribution and wheel, in ``folder``; ``time_s`` is when, in seconds since 1970."""
    with tempfile.TemporaryDirectory() as name:
        checkout, unpacked = Path(name) / "checkout", Path(name) / "unpacked"
        shutil.copytree(ROOT, checkout, ignore=LEFT_OUT)
        if url:
            _publish_address(checkout, url.rstrip("/"))
        _run(_BUILD.format("sdist"), checkout, folder, time_s)
        version = _project(checkout)["version"]
        source = folder / f"detq-{version}.tar.gz"
        _make_reproducible(source, time_s)
        with tarfile.open(source) as archive:
            archive.extractall(unpacked, filter="data")
        _run(_BUILD.format("wheel"), unpacked / f"detq-{version}", folder, time_s)
        return source, folder / f"detq-{version}-py3-none-any.whl"


def absolute_links(text: str, url: str, version: str) -> str:
    """Markdown whose relative links and pictures lead to the release in the repository."""

    def absolute(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        kind = "raw" if picture else "blob"
        return f"{picture}[{words}]({url}/{kind}/v{version}/{target})"

    return _LINK.sub(absolute, text)


def _publish_address(checkout: Path, url: str) -> None:
    readme, settings = checkout / "README.md", checkout / "pyproject.toml"
    version = _project(checkout)["version"]
    readme.write_text(absolute_links(readme.read_text("utf-8"), url, version), "utf-8")
    urls = {
        "Repository": url,
        "Issues": f"{url}/issues",
        "Changelog": f"{url}/blob/v{version}/CHANGELOG.md",
    }
    table = "".join(f'{name} = "{address}"\n' for name, address in urls.items())
    settings.write_text(f"{settings.read_text('utf-8')}\n[project.urls]\n{table}", "utf-8")


def _project(checkout: Path) -> dict[str, str]:
    project: dict[str, str] = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    return project


def _run(program: str, checkout: Path, folder: Path, time_s: int) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(time_s)}
    command = [sys.executable, "-c", program, folder]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.decode(errors="replace"))


def _make_reproducible(path: Path, time_s: int) -> None:
    """Setuptools stores when and by whom files were written, in the order of the disk."""
    with tarfile.open(path) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name)
        contents = [archive.extractfile(member) for member in members]
        data = [content.read() if content else b"" for content in contents]
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=time_s) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for member, content in zip(members, data, strict=True):
            kept = tarfile.TarInfo(member.name)
            kept.type, kept.size, kept.mtime = member.type, len(content), time_s
            kept.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            archive.addfile(kept, io.BytesIO(content))


def _time_s() -> int:
    if chosen := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(chosen)
    command = ["git", "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)


if __name__ == "__main__":
    main()
