"""The page in a real browser, its camera a file whose digits are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from browser import Browser
from scenes import MODEL, Known, jpeg
from serving import Served, end, start

READY = "document.querySelector('#connection.ready') !== null"
ANSWERS = "Number(document.body.dataset.answers ?? 0)"


@pytest.fixture(scope="module")
def browser(camera_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile"), camera_file) as running:
        yield running


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Browser]:
    browser.resize(1280, 800)
    browser.open(served.address)
    browser.wait_for(READY)
    yield browser
    assert browser.errors == []


def click(page: Browser, selector: str) -> None:
    page.value(f"document.querySelector('{selector}').click()")


def more_answers(page: Browser, count: int = 3) -> None:
    before = page.value(ANSWERS)
    page.wait_for(f"{ANSWERS} >= {before + count}")


def shown(page: Browser) -> list[tuple[str, list[float]]]:
    boxes: list[dict[str, Any]] = page.value("shownBoxes()")
    return [(box["name"], box["box"]) for box in boxes]


def drawn_pixels(page: Browser) -> int:
    """How many pixels of the canvas over the picture are not transparent."""
    return int(
        page.value(
            "(() => { const c = document.getElementById('boxes');"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; })()"
        )
    )


def test_camera_shows_every_digit_at_its_place(page: Browser, known: Known) -> None:
    click(page, "#camera")
    more_answers(page)
    assert known.missed(shown(page)) == []
    assert drawn_pixels(page) > 1000
    assert not page.value("document.getElementById('video').paused")
    assert page.value("document.getElementById('count').textContent") == str(len(known.truth))


def test_models_are_switched_while_the_camera_runs(page: Browser, known: Known) -> None:
    click(page, "#camera")
    more_answers(page)
    labels = page.value("[...document.querySelectorAll('#models button')].map(b => b.textContent)")
    exact, rounded = (label[:4] for label in labels)
    assert exact in ("FP32", "BF16", "FP16")  # whatever is fastest here
    assert rounded == "INT8"
    for number in (1, 2):
        click(page, f"#models button:nth-child({number})")
        more_answers(page)
        assert known.missed(shown(page)) == []
        chosen = page.value(
            "[...document.querySelectorAll('#models button')].map(b => "
            "b.getAttribute('aria-checked'))"
        )
        assert chosen[number - 1] == "true"


def test_class_filter_hides_and_shows(page: Browser, known: Known) -> None:
    click(page, "#camera")
    more_answers(page)
    click(page, "#classes button:nth-child(3)")  # the twos
    assert {name for name, _ in shown(page)} == {name for name, _ in known.truth} - {"2"}
    click(page, "#no-classes")
    assert shown(page) == []
    assert drawn_pixels(page) == 0
    click(page, "#all-classes")
    assert known.missed(shown(page)) == []


def test_confidence_slider_leaves_out_the_uncertain(page: Browser) -> None:
    click(page, "#camera")
    more_answers(page)
    assert min(box["score"] for box in page.value("shownBoxes()")) < 0.9
    page.value(
        "(() => { const s = document.getElementById('confidence'); s.value = 0.9;"
        "s.dispatchEvent(new Event('input')); })()"
    )
    more_answers(page)
    scores = [box["score"] for box in page.value("shownBoxes()")]
    assert scores and min(scores) >= 0.9


def test_uploaded_picture(page: Browser, known: Known, tmp_path: Path) -> None:
    picture = tmp_path / "page.jpg"
    picture.write_bytes(jpeg(known.image))
    before = page.value(ANSWERS)
    page.choose_file("#file", picture)
    page.wait_for(f"{ANSWERS} > {before} && shownBoxes().length > 0")
    assert known.missed(shown(page)) == []


def test_uploaded_video(page: Browser, known: Known, tmp_path: Path) -> None:
    video = tmp_path / "digits.webm"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"VP80"), 25, (640, 480))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no WebM")
    for _ in range(25):
        writer.write(known.image)
    writer.release()
    page.choose_file("#file", video)
    more_answers(page)
    assert page.value("document.body.dataset.source") == "video"
    assert known.missed(shown(page)) == []


def test_file_that_is_no_picture_is_told(page: Browser, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    page.choose_file("#file", broken)
    page.wait_for("!document.getElementById('notice').hidden")
    assert "broken.png" in page.value("document.getElementById('notice').textContent")


def test_sample_for_a_visitor_without_a_camera(page: Browser) -> None:
    click(page, "#sample")
    page.wait_for("shownBoxes().length > 5")


def test_picture_that_comes_slowly_is_sent_once_it_is_whole(page: Browser) -> None:
    """A browser shows the part that has come, which is not what is to be looked at."""
    slow = {"offline": False, "latency": 0, "downloadThroughput": 20_000, "uploadThroughput": -1}
    page.call("Network.emulateNetworkConditions", **slow)
    try:
        click(page, "#sample")
        page.wait_for("shownBoxes().length > 5")
    finally:
        page.call("Network.emulateNetworkConditions", **slow | {"downloadThroughput": -1})


def test_picture_that_got_lost_on_the_way_is_sent_again(page: Browser) -> None:
    """By a browser that had no time to encode it, or a server that left it out."""
    page.value(
        "(() => { const send = WebSocket.prototype.send; let lost = 0;"
        " WebSocket.prototype.send = function (message) {"
        " if (message instanceof Uint8Array && lost++ === 0) return undefined;"
        " return send.call(this, message); }; })()"
    )
    click(page, "#sample")
    page.wait_for("shownBoxes().length > 5")


def test_numbers_of_tracks_reach_the_page(browser: Browser, known: Known) -> None:
    running = start(MODEL, "--track")
    try:
        browser.open(running.address)
        browser.wait_for(READY)
        click(browser, "#camera")
        more_answers(browser)
        browser.wait_for("shownBoxes().length > 5 && shownBoxes().every((box) => box.track > 0)")
        tracks = [box["track"] for box in browser.value("shownBoxes()")]
        assert len(set(tracks)) == len(tracks) == len(known.truth)
    finally:
        browser.open("about:blank")  # a page whose server is gone would try again and complain
        end(running)


def test_source_of_the_server(page: Browser) -> None:
    click(page, "#server-source")
    page.wait_for("document.getElementById('still').naturalWidth === 640")
    assert page.value("document.getElementById('confidence').disabled")
    for figure in ("fps", "latency", "detect", "count"):
        page.wait_for(f"Number(document.getElementById('{figure}').textContent) > 0")
    click(page, "#stop")
    assert page.value("document.getElementById('fps').textContent") == "–"
    assert page.value("document.body.dataset.source") == ""


def test_thresholds_of_the_servers_source_are_the_servers(page: Browser) -> None:
    read = "document.getElementById('confidence-value').textContent"
    served = page.value(read)
    page.value(
        "(() => { const slider = document.getElementById('confidence');"
        "slider.value = 0.9; slider.dispatchEvent(new Event('input')); })()"
    )
    assert page.value(read) == "0.90" != served
    click(page, "#server-source")
    assert page.value(read) == served
    click(page, "#stop")
    assert page.value(read) == "0.90"


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out(page: Browser, width: int) -> None:
    page.resize(width, 800, phone=width < 500)
    page.wait_for(f"innerWidth === {width}")
    assert page.value("document.documentElement.scrollWidth") <= width


def test_light_and_dark(page: Browser) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page.prefer("light")
    light = page.value(ground)
    page.prefer("dark")
    dark = page.value(ground)
    assert dark != light
    click(page, "#theme")  # the visitor's choice goes before the system's
    assert page.value(ground) == light
    page.value("localStorage.clear()")


def test_connection_is_made_again(page: Browser, known: Known) -> None:
    """A page whose connection ends takes it up again, with the visitor's settings."""
    click(page, "#camera")
    more_answers(page)
    page.value("demoSocket().close()")
    page.wait_for(f"!({READY})")
    page.wait_for(READY)
    more_answers(page)
    assert known.missed(shown(page)) == []
