from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detq.data.folders import Walk
from detq.errors import DataError


def is_png(path: Path) -> bool:
    return path.suffix == ".png"


def is_gif(path: Path) -> bool:
    return path.suffix == ".gif"


def below(folder: Path, walk: Walk) -> list[str]:
    return [os.path.relpath(path, folder) for path in walk]


NAMES = st.sampled_from(["a", "b", "B", "c d", "a.png", "[1].png", "z.gif", "\udcff.png"])
PLACES = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TREES = st.lists(
    st.tuples(st.sampled_from(["file", "folder", "link"]), PLACES, st.just(".") | PLACES),
    max_size=14,
)


def _grow(root: Path, tree: list[tuple[str, str, str]]) -> None:
    for kind, place, target in tree:
        path = root / place
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "file":
                path.touch()
            elif kind == "folder":
                path.mkdir()
            else:
                path.symlink_to(root / target)  # also to nothing, to itself, through a file
        except OSError:
            continue  # something else is there


def _is_loop(path: str) -> bool:
    try:
        Path(path).stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


@settings(max_examples=150, deadline=None)
@given(tree=TREES)
def test_each_file_once_in_the_same_order_however_links_lead(
    tree: list[tuple[str, str, str]],
) -> None:
    with TemporaryDirectory() as folder:
        _grow(Path(folder), tree)
        walk = Walk(Path(folder), wanted=is_png, counted=is_gif)
        first, counts = list(walk), (walk.skipped_folders, walk.others)
        assert list(walk) == first
        assert (walk.skipped_folders, walk.others) == counts
        files = [
            os.path.join(here, name)  # noqa: PTH118
            for here, _, names in os.walk(folder)
            for name in names
            if not _is_loop(os.path.join(here, name))  # noqa: PTH118
        ]
        assert sorted(first) == sorted(name for name in files if is_png(Path(name)))
        assert walk.others == sum(is_gif(Path(name)) for name in files)


def test_order_is_by_name_whatever_the_disk_says(tmp_path: Path) -> None:
    for name in ("c.png", "b/2.png", "b/1.png", "a.png", "B.png", "b.png", "b/a/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = ["B.png", "a.png", "b/1.png", "b/2.png", "b/a/3.png", "b.png", "c.png"]
    assert below(tmp_path, Walk(tmp_path, wanted=is_png)) == expected


def test_a_folder_keeps_its_own_name_and_linked_ones_come_last(tmp_path: Path) -> None:
    for folder in ("set/z", "pool"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").touch()
    (tmp_path / "set/a").symlink_to("z")
    (tmp_path / "set/b").symlink_to("../pool")
    (tmp_path / "pool/back").symlink_to("../set")
    walk = Walk(tmp_path / "set", wanted=is_png)
    assert below(tmp_path / "set", walk) == ["z/1.png", "b/1.png"]
    assert walk.skipped_folders == 2


@pytest.mark.parametrize(
    ("target", "skipped", "names"),
    [
        ("link.png", 1, ["a.png"]),
        ("a.png/below", 0, ["a.png", "link.png"]),
        ("nothing", 0, ["a.png", "link.png"]),
        ("x" * 300, 0, ["a.png", "link.png"]),
    ],
    ids=["to itself", "below a file", "dangling", "too long a name"],
)
def test_links_that_lead_nowhere(
    tmp_path: Path, target: str, skipped: int, names: list[str]
) -> None:
    """Each ended the walk with an OSError, but for the dangling; reading says what is wrong."""
    (tmp_path / "a.png").touch()
    (tmp_path / "link.png").symlink_to(target)
    walk = Walk(tmp_path, wanted=is_png)
    assert below(tmp_path, walk) == names
    assert walk.skipped_folders == skipped


def test_what_is_not_wanted_is_counted_if_it_is_to_be(tmp_path: Path) -> None:
    for name in ("a.png", "b.gif", "c.gif", "d.txt"):
        (tmp_path / name).touch()
    walk = Walk(tmp_path, wanted=is_png, counted=is_gif)
    assert below(tmp_path, walk) == ["a.png"]
    assert walk.others == 2


def test_a_folder_with_the_name_of_a_file_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    (tmp_path / "a.png/b.png").touch()
    assert below(tmp_path, Walk(tmp_path, wanted=is_png)) == ["a.png/b.png"]


def test_depth_has_no_limit(tmp_path: Path) -> None:
    """It holds one iterator a level, and calls itself nowhere."""
    here = tmp_path
    for _ in range(300):  # pytest removes old ones by a recursive function
        here /= "d"
        try:
            here.mkdir()
        except OSError:  # a path has about 4,000 characters
            here = here.parent
            break
    (here / "a.png").touch()
    assert list(Walk(tmp_path, wanted=is_png)) == [str(here / "a.png")]


@pytest.mark.parametrize("name", ["none", "a.png"], ids=["missing", "file"])
def test_no_folder_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=rf"{name}: cannot be read \(N.*\); check the path"):
        list(Walk(tmp_path / name, wanted=is_png))


def test_folder_that_goes_away_meanwhile_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "b").mkdir()
    paths = iter(Walk(tmp_path, wanted=is_png))
    next(paths)
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(DataError, match="b: cannot be read"):
        next(paths)


def test_folders_are_read_when_their_turn_comes(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.png").touch()
    paths = iter(Walk(tmp_path, wanted=is_png))
    next(paths)
    (tmp_path / "2/b.png").touch()
    assert [os.path.relpath(path, tmp_path) for path in paths] == ["1/a.png", "2/a.png", "2/b.png"]
