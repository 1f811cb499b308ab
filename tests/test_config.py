from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from detq.config import (
    DatasetConfig,
    RangesConfig,
    Recipe,
    WeightsConfig,
    read_dataset,
    read_recipe,
)
from detq.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(CONFIGS.glob("*.yaml"))
DATASETS = sorted((CONFIGS / "data").glob("*.yaml"))


def _write(path: Path, document: object) -> Path:
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipe_is_valid_and_named_like_its_file(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert recipe.description


def test_every_recipe_is_another() -> None:
    described = {
        read_recipe(path).model_dump_json(exclude={"name", "description"}) for path in RECIPES
    }
    assert len(RECIPES) == len(described) >= 9


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_shipped_dataset_is_valid(path: Path) -> None:
    config = read_dataset(path)
    assert config.path.is_absolute()
    assert config.train
    assert config.val


def test_coco_has_its_80_classes_in_order() -> None:
    names = read_dataset(CONFIGS / "data/coco.yaml").class_names
    assert (len(names), names[0], names[-1]) == (80, "person", "toothbrush")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"name": "a", "rangs": {}},
            "unknown key 'rangs'; known keys: name, description, weights, ranges, placement",
        ),
        (
            {"name": "a", "weights": {"splits": "cfws"}},
            r"unknown key 'weights\.splits'; known keys: split, parts, granularity, bits",
        ),
        (
            {"name": "a", "ranges": {"bin": 3}},
            r"unknown key 'ranges\.bin'; known keys: backbone, neck, head, alternatives, bins",
        ),
        ({}, "name: Field required"),
        (
            {"name": "a", "ranges": {"backbone": "kl"}},
            r"ranges\.backbone: Input should be 'kl_cfws'",
        ),
        ({"name": "a", "ranges": {"bins": 255}}, r"ranges\.bins: .*greater than or equal to 256"),
        ({"name": "a", "ranges": {"percentile": 50}}, r"ranges\.percentile: .*greater than 50"),
        ({"name": "a", "ranges": {"kl_keep": 1.5}}, r"ranges\.kl_keep: .*less than or equal to 1"),
        ({"name": "a", "weights": {"split": "half"}}, r"weights\.split: Input should be 'none'"),
        ({"name": "a", "weights": {"parts": ["tail"]}}, r"weights\.parts\.0: Input should be"),
        (
            {"name": "a", "calibration_images": 0},
            "calibration_images: .*greater than or equal to 1",
        ),
        ({"name": "a", "bias_correction": "nncf"}, "needs ranges: placement in every part"),
        (
            {
                "name": "a",
                "mixed_precision": True,
                "ranges": dict.fromkeys(("backbone", "neck", "head"), "placement"),
            },
            "mixed_precision: needs ranges by a rule in some part",
        ),
        (
            {"name": "a", "ranges": {"alternatives": ["mse"]}},
            "ranges.alternatives: needs mixed_precision: true",
        ),
        (
            {"name": "a", "weights": {"bits": 4}, "overflow_fix": "disable"},
            "rounding and bits need overflow_fix: pairs",
        ),
        (["name"], "expected `key: value` lines, got list"),
        (None, "expected `key: value` lines, got NoneType"),
    ],
    ids=[
        "unknown key",
        "unknown key in weights",
        "unknown key in ranges",
        "no name",
        "unknown rule",
        "too few bins",
        "percentile too low",
        "share above 1",
        "unknown split",
        "unknown part",
        "no images",
        "nncf's correction for other ranges",
        "mixed precision without ranges",
        "alternatives that nothing judges",
        "few bits on foreign grids",
        "list",
        "empty",
    ],
)
def test_wrong_recipe_is_an_error_that_names_file_and_key(
    tmp_path: Path, document: object, message: str
) -> None:
    path = _write(tmp_path / "mine.yaml", document)
    with pytest.raises(ConfigError, match=rf"mine\.yaml: .*{message}") as raised:
        read_recipe(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"names": ["a"], "vall": "x"}, "unknown key 'vall'; known keys: path, train, val, test"),
        ({"val": "x"}, "names: Field required"),
        ({"names": []}, "names: expected one name per class from 0 up"),
        ({"names": {-1: "a", 0: "b"}}, "names: expected numbers of classes from 0 up"),
        ({"names": {10**9: "a"}}, "names: expected numbers of classes from 0 up"),
        ({"names": {"first": "a"}}, r"names\.first.*: Input should be a valid integer"),
        ({"names": "ab"}, "names: Input should be a valid dictionary"),
        ({"names": ["a"], "nc": 2}, "nc: 2, but names lists 1 classes"),
        ({"names": ["a"], "annotations": "x.json"}, "annotations: Input should be a valid dict"),
    ],
    ids=[
        "unknown key",
        "no names",
        "no classes",
        "negative number",
        "a billion classes",
        "name as id",
        "one string",
        "another count",
        "annotations of no split",
    ],
)
def test_wrong_dataset_is_an_error_that_names_file_and_key(
    tmp_path: Path, document: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"mine\.yaml: .*{message}"):
        read_dataset(_write(tmp_path / "mine.yaml", document))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"name: [a", "not a YAML file"), (b"\xff\xfe\x00name", "no UTF-8 text"), (b"", "NoneType")],
    ids=["broken", "binary", "empty"],
)
def test_what_is_no_yaml_is_an_error_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as raised:
        read_recipe(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["none.yaml", "."], ids=["missing", "folder"])
def test_unreadable_file_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recipe(tmp_path / name)


def test_python_objects_in_yaml_are_not_made(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: !!python/object/apply:os.system ['exit 1']\n")
    with pytest.raises(ConfigError, match="not a YAML file"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("folder", "expected"), [(".", "."), ("../data", "../data"), ("/data/coco", "/data/coco")]
)
def test_dataset_folder_is_relative_to_the_file(tmp_path: Path, folder: str, expected: str) -> None:
    path = _write(tmp_path / "mine.yaml", {"path": folder, "names": ["a"]})
    assert read_dataset(path).path == (tmp_path / expected).resolve()


def test_names_may_be_a_list_or_numbered_in_any_order() -> None:
    listed = DatasetConfig(names=["a", "b"])  # type: ignore[arg-type]
    numbered = DatasetConfig(names={1: "b", 0: "a"})
    assert listed.class_names == numbered.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: {2: cat, 0: dog}", ("dog", "class1", "cat")),
        ("nc: 4\nnames: {2: cat, 0: dog}", ("dog", "class1", "cat", "class3")),
        ("nc: 2\nnames: {2: cat, 0: dog}", ("dog", "class1", "cat")),
        ("nc: 2", ("class0", "class1")),
        ("names: [no, 1e3, 3.10, null, 'x y']", ("no", "1e3", "3.10", "null", "x y")),
    ],
    ids=["gap", "count beyond the names", "count of the names", "count alone", "odd words"],
)
def test_classes_keep_their_numbers_and_their_names(
    tmp_path: Path, text: str, names: tuple[str, ...]
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert read_dataset(tmp_path / "mine.yaml").class_names == names


def test_keys_of_other_programs_are_named_in_one_note(tmp_path: Path) -> None:
    document = {
        "val": "images",
        "names": ["a"],
        "is_coco": False,
        "roboflow": {"url": "x"},
        "minival": "x",
        "flip_idx": [0],
        "license": "MIT",
    }
    config = read_dataset(_write(tmp_path / "mine.yaml", document))
    assert len(config.notes) == 1
    assert all(key in config.notes[0] for key in document if key not in ("val", "names"))


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        *(("vall", "val"), ("tets", "test"), ("name", "names"), ("trian", "train")),
        *(("Names", "names"), ("anotations", "annotations"), ("kpt_shap", "kpt_shape")),
    ],
)
def test_misspelt_key_is_an_error_that_names_the_right_one(
    tmp_path: Path, key: str, meant: str
) -> None:
    path = _write(tmp_path / "mine.yaml", {"val": "images", "names": ["a"], key: "x"})
    with pytest.raises(ConfigError, match=rf"unknown key '{key}'.*did you mean '{meant}'"):
        read_dataset(path)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"val": "x", "valid": "y"}, "'valid' says what 'val' says"),
        ({"annotations": {"vall": "x"}}, "'vall' is no split"),
        ({"kpt_shape": [17, 4]}, "kpt_shape: expected"),
        ({"nc": 0}, "nc: expected 1 to"),
    ],
    ids=["val twice", "annotations of no split", "keypoints of four numbers", "no class"],
)
def test_what_contradicts_itself_is_an_error(
    tmp_path: Path, document: dict[str, object], message: str
) -> None:
    path = _write(tmp_path / "mine.yaml", {"names": ["a"], **document})
    with pytest.raises(ConfigError, match=message):
        read_dataset(path)


@pytest.mark.parametrize(
    ("lies", "path", "written"),
    [
        ("set/valid/images", None, "../valid/images"),
        ("valid/images", None, "../valid/images"),
        ("set/valid/images", None, "set/valid/images"),
        ("set/valid/images", None, "/content/set/valid/images"),
        ("set/valid/images", None, "valid\\images"),
        ("set/valid/images", "/home/somebody/set", "valid/images"),
        ("set/valid/images", "../datasets/set", "valid/images"),
        ("work/datasets/other/valid/images", "other", "valid/images"),
        ("datasets/other/valid/images", "other", "valid/images"),
        ("work/valid/images", None, "valid/images"),
    ],
    ids=[
        *("Roboflow", "Roboflow, one folder up", "Colab", "Colab, absolute", "Windows"),
        *("path of another machine", "path that is not there", "datasets in the working folder"),
        *("datasets beside the working folder", "YOLOv6: the working folder"),
    ],
)
def test_split_is_found_where_other_programs_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lies: str, path: str | None, written: str
) -> None:
    (tmp_path / lies).mkdir(parents=True)
    for folder in ("set", "work"):
        (tmp_path / folder).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "work")
    document = {"val": written, "names": ["a"], "path": path}
    config = read_dataset(_write(tmp_path / "set/data.yaml", document))
    assert [found.resolve() for found in config.sources("val")] == [tmp_path / lies]


def test_path_as_written_goes_before_the_one_that_roboflow_means(tmp_path: Path) -> None:
    for folder in ("valid/images", "set/valid/images"):
        (tmp_path / folder).mkdir(parents=True)
    document = {"val": "../valid/images", "names": ["a"]}
    config = read_dataset(_write(tmp_path / "set/data.yaml", document))
    assert config.sources("val")[0].resolve() == tmp_path / "valid/images"
    assert any("and not" in note for note in config.notes)


def test_default_recipe_clips_and_splits_nothing_by_itself() -> None:
    recipe = Recipe(name="a")
    assert recipe.weights == WeightsConfig(split="none")
    assert not recipe.ranges.any_placement


@pytest.mark.parametrize(
    ("rules", "some", "all_of_them"),
    [
        (("minmax", "minmax", "minmax"), False, False),
        (("minmax", "placement", "minmax"), True, False),
        (("placement", "placement", "placement"), True, True),
    ],
    ids=["none", "one", "all"],
)
def test_parts_that_keep_their_placement(
    rules: tuple[str, str, str], some: bool, all_of_them: bool
) -> None:
    config = RangesConfig(**dict(zip(("backbone", "neck", "head"), rules, strict=True)))  # type: ignore[arg-type]
    assert (config.any_placement, config.only_placement) == (some, all_of_them)


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe(name="a").name = "b"


def test_recipes_from_before_the_names_of_the_field() -> None:
    old = WeightsConfig.model_validate(
        {"split": "cfws", "layers": "measured", "rounding": "feedback"}
    )
    assert (old.split, old.rounding) == ("none", "gptq")
    assert WeightsConfig.model_validate({"split": "cfws", "layers": "all"}).split == "cfws"


def test_recipe_of_the_time_when_search_was_a_rule() -> None:
    old = Recipe.model_validate({"name": "a", "ranges": {"backbone": "search", "bins": 512}})
    assert (old.ranges.backbone, old.ranges.bins, old.mixed_precision) == ("mse", 512, True)
    assert not Recipe.model_validate({"name": "a", "ranges": {"backbone": "mse"}}).mixed_precision
