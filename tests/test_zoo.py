"""tools/zoo.py: what is cut off goes on, what fails is a row, and the figures are what they say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from installs import ROOT

import detq
from detq.errors import ConfigError, DetqError
from detq.runtime.machine import float_precisions

sys.path.insert(0, str(ROOT / "tools"))
import zoo
import zoo_error
import zoo_expected
import zoo_folds
import zoo_plan
import zoo_results
import zoo_table
from zoo_measuring import Quantizer, Subject
from zoo_results import FLOAT, LATENCY, Key, Results, Row

RECIPES = ("nncf", "minmax")
OWN_TIME = ("seconds", "cpu_seconds", "passes")


@pytest.fixture
def plan(colour_model: Path, colour_data: Path, tmp_path: Path) -> zoo_plan.Plan:
    path = tmp_path / "zoo.yaml"
    path.write_text(
        f"models:\n- {{name: halves, model: {colour_model}, data: {colour_data.name}}}\n"
        f"- {{name: absent, model: {tmp_path}/absent.onnx, data: {colour_data.name}}}\n"
        "seeds: [0, 1]\nimages: 1\nheld_back: 1\nrecipes: [nncf, minmax, cfws_kl]\n"
    )
    return zoo_plan.read_plan(path)


def _run(plan: zoo_plan.Plan, results: Results) -> zoo.Zoo:
    run = zoo.Zoo(plan, results, root=results.path.parent)
    for entry in plan.models:
        run.measure(entry)
    for entry in plan.models:
        run.time(entry, wait_s=0)
    return run


def _figures(rows: dict[Key, Row]) -> dict[Key, Row]:
    return {
        key: {name: value for name, value in row.items() if name not in OWN_TIME}
        for key, row in rows.items()
    }


def test_cut_off_run_goes_on(
    plan: zoo_plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "load_average", lambda: 99.0)
    whole = _run(plan, Results(tmp_path / "whole.jsonl")).rows()
    floats = len(float_precisions())
    assert [*whole] == [
        *(("halves", label, 0) for label in [*zoo.FLOAT_LABELS.values()][:floats]),
        *(("halves", recipe, seed) for recipe in RECIPES for seed in (0, 1)),
        ("absent", FLOAT, 0),
    ]
    results, written = Results(tmp_path / "cut.jsonl"), Results.add
    left = 3

    def cut(self: Results, row: Row, arrays: object = None) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            with self.path.open("a") as file:
                file.write(json.dumps(row)[:40])  # half a line
            raise KeyboardInterrupt
        written(self, row, arrays)  # type: ignore[arg-type]

    monkeypatch.setattr(Results, "add", cut)
    with pytest.raises(KeyboardInterrupt):
        _run(plan, results)
    monkeypatch.setattr(Results, "add", written)
    before = results.rows()
    assert len(before) == 3
    after = _run(plan, results).rows()
    assert _figures(after) == _figures(whole)
    assert all(after[key] == row for key, row in before.items())  # not measured twice
    for key in after:
        if key[0] == "halves":
            one, other = results.arrays(key), Results(tmp_path / "whole.jsonl").arrays(key)
            np.testing.assert_array_equal(one["resampled"], other["resampled"])


def test_page_says_what_failed_and_what_is_missing(
    plan: zoo_plan.Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = Results(tmp_path / "zoo.jsonl")
    monkeypatch.setattr(zoo, "load_average", lambda: 99.0)
    rows = _run(plan, results).rows()
    page = "\n".join(zoo.page(plan, results, rows))
    assert "latencies are not measured: load average 99.0" in capsys.readouterr().err
    assert "| absent | float | not measured: " in page
    assert "absent.onnx" in page
    assert "Latency not measured: halves." in page
    assert f"| float, 2 images | {rows['halves', FLOAT, 0]['score']:.2f} |" in page
    assert "Rows not measured yet" not in page
    first = page.partition("\n\n")[0].splitlines()
    assert {line.count("|") for line in first} == {len(zoo_table.HEADINGS) + 1}

    monkeypatch.setattr(zoo, "load_average", lambda: 0.0)
    monkeypatch.setattr(zoo, "ROUNDS", 1)
    timed = _run(plan, results).rows()
    assert set(timed["halves", LATENCY, 0]["ms"]) == {
        *[*zoo.FLOAT_LABELS.values()][: len(float_precisions())],
        *RECIPES,
    }
    assert "Latency not measured" not in "\n".join(zoo.page(plan, results, timed))
    more = plan.model_copy(update={"seeds": (0, 1, 2)})
    assert "Rows not measured yet: 2" in "\n".join(zoo.page(more, results, timed))


def test_two_runs_do_not_measure_into_one_file(tmp_path: Path) -> None:
    """They would measure latencies at one time, each while the other computes."""
    results = Results(tmp_path / "zoo.jsonl")
    with results.alone():
        command = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from pathlib import Path; from zoo_results import Results\n"
            "with Results(Path(sys.argv[2])).alone(): pass"
        )
        arguments = [sys.executable, "-c", command, str(ROOT / "tools"), str(results.path)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert "zoo.jsonl: another run measures into it" in done.stderr
    with results.alone():
        pass


def test_rows_of_another_plan_do_not_count(plan: zoo_plan.Plan, tmp_path: Path) -> None:
    results = Results(tmp_path / "zoo.jsonl")
    own = zoo.Zoo(plan, results, root=tmp_path)
    own.measure(plan.models[1])
    assert len(own.rows()) == 1
    more_images = plan.model_copy(update={"images": 2})
    assert zoo.Zoo(more_images, results, root=tmp_path).rows() == {}


def test_figures_are_those_of_evaluate_and_quantize(
    plan: zoo_plan.Plan, colour_model: Path, colour_data: Path, tmp_path: Path
) -> None:
    run = zoo.Zoo(plan, Results(tmp_path / "zoo.jsonl"), root=tmp_path)
    run.measure(plan.models[0])
    row = run.rows()["halves", "minmax", 0]
    made = detq.quantize(colour_model, data=colour_data, recipe="minmax", calibration_images=1)
    result = detq.evaluate(made.graph, data=colour_data)
    assert row["scores"] == dict(result.scores)
    assert {name: score for name, (score, _) in row["classes"].items()} == {
        name: one.map for name, one in result.per_class.items()
    }
    assert row["int8_share"] == made.int8_share


def test_errors_and_losses_of_parts_are_those_of_the_network(
    plan: zoo_plan.Plan, tmp_path: Path
) -> None:
    """Float against itself is 0; of the INT8 network the loss is that of its row in the table."""
    subject = Subject(plan.models[0], plan, tmp_path, tmp_path)
    quantizer = Quantizer(subject, seed=0)
    judges = zoo_error.error_of(quantizer), zoo_error.loss_of(subject)
    assert [judge(subject.graph.model) for judge in judges] == ["0.000", "+0.00 [0.00, 0.00]"]
    with pytest.raises(DetqError, match="one held-back image is not enough"):
        zoo_error.tensor_cells(quantizer)
    networks = list(zoo_error.Networks(quantizer))
    assert len(networks) == len(zoo_error.HEADINGS)
    row, _ = quantizer.quantize("measured", None)
    exact = subject.score(subject.graph, is_float=True).row["score"]
    assert judges[1](networks[0]).startswith(f"{exact - row['score']:+.2f} [")


def test_tensors_are_chosen_on_one_half_of_the_images(
    plan: zoo_plan.Plan, colour_data: Path, tmp_path: Path
) -> None:
    (image, *_) = sorted((colour_data.parent / "images/val").iterdir())
    (colour_data.parent / "images/train").mkdir()
    for number in range(6):
        shutil.copy(image, colour_data.parent / f"images/train/{number}{image.suffix}")
    text = colour_data.read_text()
    colour_data.write_text(text.replace("train: images/val", "train: images/train"))
    entry = plan.models[0]
    more = plan.model_copy(update={"held_back": 4})
    quantizer = Quantizer(Subject(entry, more, tmp_path, tmp_path), seed=0)
    error, grids, tensors, together = zoo_error.tensor_cells(quantizer)
    assert float(error) >= 0
    assert tensors.count("→") == min(int(grids), zoo_error.MOST_TENSORS)
    here, there = together.split(" → ")
    assert here == there  # all of them are the same image


def test_loss_is_paired_and_names_the_worst_class(tmp_path: Path) -> None:
    results = Results(tmp_path / "zoo.jsonl")
    noise = np.random.default_rng(0).normal(size=1000)
    rows = {}
    for recipe, seed, ant, bee in (
        (FLOAT, 0, 60.0, 40.0),
        ("x", 0, 59.0, 36.0),
        ("x", 1, 61.0, 34.0),
    ):
        row = {"model": "m", "recipe": recipe, "seed": seed, "measure": "mAP", "images": 9}
        row |= {
            "score": (ant + bee) / 2,
            "classes": {"ant": [ant, 70], "no": [None, 0], "bee": [bee, 3]},
        }
        by_class = np.stack([ant + noise, np.full(1000, np.nan), bee + noise], axis=1)
        arrays = {"resampled": row["score"] + noise, "resampled_classes": by_class}
        results.add(row, arrays)
        rows[zoo_results.key_of(row)] = row
    loss = zoo_table.loss_of(results, rows["m", FLOAT, 0], [rows["m", "x", 0], rows["m", "x", 1]])
    assert loss.points == pytest.approx(2.5)
    np.testing.assert_allclose(loss.resampled, 2.5)  # what images do to both cancels out
    assert [(one.name, one.points, one.objects) for one in loss.classes] == [
        ("bee", 5.0, 3),
        ("ant", 0.0, 70),  # "no" has no object
    ]
    np.testing.assert_allclose(loss.classes[0].resampled, 5.0)
    assert [one.name for one in loss.frequent] == ["ant"]


def test_both_halves_together_score_as_one_split(
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, coco = shared / "models/yolox_nano.onnx", shared / "data/coco256"
    halves = [sorted((coco / "images" / half).iterdir())[:12] for half in ("calib", "val")]
    splits = {"train": halves[0], "val": halves[1], "both": [*halves[0], *halves[1]]}
    for split, images in splits.items():
        (tmp_path / f"{split}.txt").write_text("".join(f"{image}\n" for image in images))
    names = yaml.safe_load((coco / "data.yaml").read_text())["names"]
    for split in ("val", "both"):
        document = {"train": "train.txt", "val": f"{split}.txt", "names": names}
        (tmp_path / f"{split}.yaml").write_text(yaml.safe_dump(document))
    expected = detq.evaluate(model, data=tmp_path / "both.yaml")

    config = tmp_path / "zoo.yaml"
    config.write_text(
        f"models: [{{name: nano, model: {model}, data: {tmp_path}/val.yaml}}]\n"
        "seeds: [0]\nimages: 4\nheld_back: 4\nrecipes: [minmax]\n"
    )
    monkeypatch.setattr(zoo, "float_precisions", lambda: ("f32",))
    arguments = [str(config), "--results", str(tmp_path / "rows.jsonl")]
    with pytest.raises(
        SystemExit, match=r"measured both in .*rows\.jsonl and in .*; run tools/zoo\.py"
    ):
        _tool(zoo_folds, arguments, monkeypatch)
    for more in ([], ["--swap"]):
        _tool(zoo, [*arguments, "--wait", "0", *more], monkeypatch)
    capsys.readouterr()
    _tool(zoo_folds, arguments, monkeypatch)
    rows = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in rows[2].strip("|").split("|")]
    assert cells[:3] == ["nano", "`minmax`", f"{expected.scores['map']:.2f}"]
    assert rows[0].count("|") == rows[2].count("|") == len(zoo_folds.HEADINGS) + 1
    assert cells[3] in rows[-1]  # the mean over the detectors is that of this one
    assert cells[7].startswith("person ")

    (tmp_path / "rows_swapped" / "nano_minmax_0.npz").unlink()
    with pytest.raises(SystemExit, match=r"nano_minmax_0.npz: is missing, and belongs to .*jsonl"):
        _tool(zoo_folds, arguments, monkeypatch)


def test_damaged_results_are_one_line(tmp_path: Path) -> None:
    results = Results(tmp_path / "rows.jsonl")
    row = {"model": "m", "recipe": FLOAT, "seed": 0}
    results.add(row, {"right": np.ones(3)})
    assert results.arrays(("m", FLOAT, 0))["right"].sum() == 3
    file = results.arrays_file(("m", FLOAT, 0))
    for damage in (b"", file.read_bytes()[:-40], b"no archive"):
        file.write_bytes(damage)
        with pytest.raises(DetqError, match=r"is damaged, and belongs to .*rows\.jsonl"):
            results.arrays(("m", FLOAT, 0))
    for line in ("{", "3", '{"model": "m"}'):
        results.path.write_text(f"{json.dumps(row)}\n{line}\n")
        with pytest.raises(DetqError, match=r"rows\.jsonl:2: no row of tools/zoo\.py"):
            results.rows()
    for name in ("no_suffix", ""):
        with pytest.raises(DetqError, match=r"is the name of a folder; --results takes a file"):
            Results(tmp_path / name)
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DetqError, match=r"cannot be made: .*; pass --results"),
        Results(tmp_path / "file" / "rows.jsonl").alone(),
    ):
        pass


def test_what_a_plan_has_not_is_said(
    plan: zoo_plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="no model is called nobody; there are halves, absent"):
        plan.only(["halves", "nobody"])
    assert [one.label for one in plan.only(["absent"]).models] == ["absent"]
    assert plan.only(None) == plan
    swapped = plan.swapped()
    assert {(one.calibrate, one.split) for one in swapped.models} == {("val", "train")}
    assert swapped.swapped() == plan
    same = plan.models[0].model_copy(update={"calibrate": "val"})
    with pytest.raises(ConfigError, match="halves: calibrated on val and judged by it"):
        plan.model_copy(update={"models": (same,)}).swapped()
    for module in (zoo, zoo_folds, zoo_error):
        with pytest.raises(SystemExit, match=r"error: .*absent\.yaml"):
            _tool(module, [str(tmp_path / "absent.yaml")], monkeypatch)
    assert not [*tmp_path.glob("runs/*")]


def test_zoo_of_which_nothing_is_there_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "zoo.yaml"
    config.write_text(f"models: [{{model: {tmp_path}/absent.onnx, data: {tmp_path}/data.yaml}}]\n")
    arguments = [str(config), "--results", str(tmp_path / "rows.jsonl"), "--wait", "0"]
    with pytest.raises(SystemExit, match=r"zoo.yaml: nothing of it is measured"):
        _tool(zoo, arguments, monkeypatch)
    page = capsys.readouterr().out
    assert "| absent | float | not measured: " in page
    assert "CPU:" not in page


def _tool(module: ModuleType, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *arguments])
    module.main()


def _rows_of(
    models: int, noise: Callable[[int], np.ndarray]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    names = [f"m{n}" for n in range(models) for _ in range(12)]
    agreement = generator.uniform(40, 100, len(names))
    return names, agreement, 0.002 * (100 - agreement) ** 2 + noise(len(names))


def test_expected_losses_hold_for_models_that_were_not_seen() -> None:
    generator = np.random.default_rng(2)
    names, agreement, loss = _rows_of(12, lambda n: generator.normal(0, 0.3, n))
    expected, low, high = zoo_expected.expected_losses(names, agreement, loss)
    assert np.mean((low <= loss) & (loss <= high)) >= 0.9
    assert np.median(high - low) < 2.0  # normal noise of 0.3: 1.2 wide at best
    assert np.abs(expected - 0.002 * (100 - agreement) ** 2).mean() < 0.3


def test_a_models_own_losses_change_nothing_about_it() -> None:
    names, agreement, loss = _rows_of(4, np.zeros)
    own = np.array(names) == "m2"
    before = zoo_expected.expected_losses(names, agreement, loss)
    after = zoo_expected.expected_losses(names, agreement, np.where(own, loss + 7, loss))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[own], other[own])
        assert not np.array_equal(one[~own], other[~own])


def test_few_rows_let_expect_nothing() -> None:
    keys = [(f"m{n % 3}", "minmax", n // 3) for n in range(12)]
    rows = {key: {"measure": "mAP", "held_back": 90.0 + n} for n, key in enumerate(keys)}
    losses = {key: (1.0 - n / 10, 0.1) for n, key in enumerate(keys)}
    some = dict([*losses.items()][:9])
    assert [*zoo_expected.lines(rows, some)] == []
    told = "\n".join(zoo_expected.lines(rows, losses))
    assert told.count("`minmax`") == 12
    two_models = {key: value for key, value in losses.items() if key[0] != "m2"}
    more = {(m, "nncf", seed): value for (m, _, seed), value in two_models.items()}
    rows |= {key: {"measure": "mAP", "held_back": 90.0} for key in more}
    assert [*zoo_expected.lines(rows, two_models | more)] == []


def test_plan_of_the_tool_is_sound() -> None:
    plan = zoo_plan.read_plan(ROOT / "tools/zoo.yaml")
    assert len(plan.seeds) == 3
    assert plan.recipes_of(0, splits=False) == ["nncf", "minmax", "measured"]
    for name in plan.recipes:
        assert zoo_plan.recipe_of(name, seed=1, images=7).calibration_images == 7


def test_variants_are_recipes_with_one_thing_changed() -> None:
    variants = ("measured/without fold zero points", "minmax/weights.bits=4", "everything")
    entry = zoo_plan.Entry(model="m", data="d")
    plan = zoo_plan.Plan(models=(entry,), variants=variants)
    written = plan.recipes_of(0, splits=True)
    assert "measured/without equalize channels" in written
    assert plan.recipes_of(1, splits=True) == [*plan.recipes]
    assert zoo_plan.recipe_of(variants[0], seed=0, images=1).without == ("fold zero points",)
    assert zoo_plan.recipe_of(variants[1], seed=0, images=1).weights.bits == 4
    both = zoo_plan.recipe_of(
        "minmax/weights.granularity=tensor, bias_correction=none", seed=0, images=1
    )
    assert (both.weights.granularity, both.bias_correction) == ("tensor", "none")
    with pytest.raises(ConfigError, match="weight: no such section"):
        zoo_plan.recipe_of("minmax/weight.bits=4", seed=0, images=1)
    with pytest.raises(ConfigError, match=r"weights\.bits"):
        zoo_plan.recipe_of("minmax/weights.bits=99", seed=0, images=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: []", "models"),
        ("models: [{model: a.pt, data: d}, {model: b/a.pt, data: d}]", "two models are called a"),
        ("models: [{model: a.pt, data: d, imgsize: 3}]", "known keys: model, data"),
        ("models: [{model: a.pt, data: d}]\nseed: 3", "known keys: models, seeds"),
        ("models: [{model: a.pt, data: d}]\nrecipes: [minimax]", "minimax"),
        ("models: [{model: a.pt, data: d}]\nvariants: [minmax/weight.bits=4]", "no such section"),
    ],
)
def test_wrong_plan_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "zoo.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        zoo_plan.read_plan(path)
    assert str(path) in str(caught.value)
