from __future__ import annotations

from functools import partial

from detq.progress import Progress, Steps, labelled, silent


def test_a_label_stands_before_every_stage_and_none_changes_nothing() -> None:
    heard: list[tuple[str, int, int]] = []

    def report(stage: str, done: int, total: int) -> None:
        heard.append((stage, done, total))

    labelled(report, "minmax")("observing", 1, 2)
    assert heard == [("minmax: observing", 1, 2)]
    assert labelled(report, "") is report


def test_silence_suits_both_kinds() -> None:
    whole: Progress = silent
    within: Steps = silent
    assert whole("observing", 1, 2) is None
    assert within(1, 2) is None
    assert partial(whole, "observing")(1, 2) is None
