"""The studio as people use it: a real browser before a real server."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import av
import numpy as np
import pytest
from PIL import Image

from flashportrait.marking.reading import read_origin
from studios import EXAMPLES, Served, Visitor

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="ends the server with a signal")

PORTRAIT = EXAMPLES / "drawn_1.png"


@pytest.fixture
def visitor(browser: Any, served: Served) -> Iterator[Visitor]:
    """Somebody who meets no errors, and whose browser asks nobody else."""
    somebody = Visitor(browser, served.url)
    yield somebody
    somebody.context.close()
    assert somebody.trouble == []


def contents(path: Path) -> tuple[int, float, bool]:
    """Frames, their rate, and whether there is sound above a whisper."""
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate)
        frames = sum(1 for _ in container.decode(video=0))
        if not container.streams.audio:
            return frames, rate, False
        container.seek(0)
        loudest = max(float(np.abs(frame.to_ndarray()).max()) for frame in container.decode(audio=0))
    return frames, rate, loudest > 0.1


def test_an_upload_is_animated_seen_on_the_way_and_downloaded(visitor: Visitor, driver: Path, tmp_path: Path) -> None:
    page = visitor.page
    visitor.upload(PORTRAIT, driver)
    assert "One face found" in page.inner_text("#portrait-told")
    assert "120 frames, with sound" in page.inner_text("#driver-told")
    assert "120 frames" in visitor.wait("120 frames", "#estimate")
    visitor.fill("setting-mouth", "1.25")
    visitor.animate()
    assert "of 120 frames" in visitor.wait("Drawing frames")
    page.wait_for_function("() => document.querySelector('#preview video')?.currentTime > 0.1")
    assert "Drawing frames" in page.inner_text("#status")  # it plays before the end
    visitor.wait_result()
    page.wait_for_function(
        """() => { const [driver, result] = document.querySelectorAll('#trio video');
        return result.currentTime > 1 && Math.abs(driver.currentTime - result.currentTime) < 0.15 }"""
    )
    report = page.inner_text("#report")
    assert "120 frames of" in report
    assert "A face in every frame" in report
    with page.expect_download() as download:
        page.click("a.download")
    assert download.value.suggested_filename == "drawn_1-talking_b.mp4"
    download.value.save_as(tmp_path / "made.mp4")
    assert contents(tmp_path / "made.mp4") == (120, 25.0, True)
    assert read_origin(tmp_path / "made.mp4").state == "intact"
    visitor.open()  # all is there again, and "again" keeps everything
    visitor.wait_result()
    page.click("#again")
    visitor.wait("All is as for drawn_1 driven by talking b:", "#told")
    page.wait_for_selector("#driver-told .good")
    assert page.input_value("#setting-mouth input[type=number]") == "1.25"
    assert "measured" in visitor.wait("about", "#estimate")


def test_a_cancelled_run_goes_on_after_the_page_was_closed(browser: Any, served: Served, driver: Path) -> None:
    visitor = Visitor(browser, served.url)
    page = visitor.page
    visitor.upload(PORTRAIT, driver)
    visitor.fill("setting-size", "1024")
    visitor.fill("end", "1.6")
    visitor.animate()
    visitor.wait("Drawing frames")
    name = served.newest
    page.click("#cancel")
    visitor.wait("Cancelled")
    assert (served.folder / name / "result.mp4.work").is_dir()
    page.click("#resume")
    visitor.wait("Drawing frames")
    visitor.open()  # in the middle
    assert "of 40 frames" in visitor.wait("Drawing frames")
    page.close()
    page = visitor.page = visitor.context.new_page()
    visitor.open()
    page.get_by_role("tab", name="History").click()
    page.locator(f"[data-act=open][data-entry='{name}']").click()
    visitor.wait_result()
    assert contents(served.folder / name / "result.mp4") == (40, 25.0, True)
    assert not (served.folder / name / "result.mp4.work").exists()
    page.get_by_role("tab", name="History").click()
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator(f"[data-act=delete][data-entry='{name}']").click()
    page.wait_for_selector(f"[data-entry='{name}']", state="detached")
    assert not (served.folder / name).exists()
    visitor.context.close()


def test_two_visitors_have_a_place_in_the_queue_and_their_own_results(
    browser: Any, served: Served, driver: Path
) -> None:
    first, second = Visitor(browser, served.url), Visitor(browser, served.url)
    for visitor, portrait in ((first, PORTRAIT), (second, EXAMPLES / "drawn_2.png")):
        visitor.upload(portrait, driver)
        visitor.fill("end", "2")
    first.animate()
    first.wait("so far")
    second.animate()
    assert "Next in the queue" in second.wait("queue")
    for visitor, portrait in ((first, "drawn_1.png"), (second, "drawn_2.png")):
        visitor.wait_result()
        about = json.loads((served.folder / visitor.watched / "job.json").read_text())
        assert about["names"]["portrait"] == portrait
        assert contents(served.folder / visitor.watched / "result.mp4") == (50, 25.0, True)
        visitor.context.close()
        assert visitor.trouble == []


def test_bad_input_is_told_where_it_was_given(visitor: Visitor, driver: Path, tmp_path: Path) -> None:
    page = visitor.page
    page.click("#animate")
    assert "choose a portrait" in visitor.wait("choose a portrait", "#portrait-told")
    assert "choose a driver" in visitor.wait("choose a driver", "#driver-told")
    words, nobody = tmp_path / "words.jpg", tmp_path / "nobody.png"
    words.write_text("<script>alert(1)</script>")
    Image.new("RGB", (300, 300), "teal").save(nobody)
    page.set_input_files("#portrait input[type=file]", words)
    assert "words.jpg" in visitor.wait("words.jpg", "#portrait-told .error")
    page.click("#portrait button[aria-label='Remove Image'], #portrait button[aria-label='Clear']")
    page.set_input_files("#portrait input[type=file]", nobody)
    assert "no face found" in visitor.wait("no face", "#portrait-told .error")
    page.set_input_files("#driver input[type=file]", words.rename(tmp_path / "words.mp4"))
    visitor.wait("words.mp4", "#driver-told .error")
    visitor.open()
    visitor.upload(PORTRAIT, driver)
    visitor.fill("setting-size", "huge")
    visitor.fill("end", "soon")
    page.click("#animate")
    assert "size is 'huge': give a whole number from 16 to 4096" in visitor.wait("size is", "#told")
    assert "'soon' in the trim ':soon' is not a time" in visitor.wait("trim", "#driver-told")
    assert "Traceback" not in page.content()


def test_a_phone_and_a_keyboard_are_enough(browser: Any, served: Served) -> None:
    visitor = Visitor(browser, served.url, width=360, color_scheme="dark")
    page = visitor.page
    for tab in ("History", "Live", "Animate"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, tab
    for example, told in (("example-portraits", "#portrait-told"), ("example-drivers", "#driver-told")):
        page.focus(f"#{example} button")
        page.keyboard.press("Enter")
        page.wait_for_selector(f"{told} .good")
    visitor.fill("end", "0.4")
    visitor.wait("10 frames", "#estimate")  # the page is settled
    page.focus("#animate")
    page.keyboard.press("Enter")
    visitor.wait_result()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    visitor.context.close()
    assert visitor.trouble == []


def test_of_several_faces_one_is_clicked_and_the_result_is_made_into_other_kinds(
    visitor: Visitor, served: Served, driver: Path, tmp_path: Path
) -> None:
    page = visitor.page
    both = Image.new("RGB", (1024, 512))
    for place, name in ((0, "drawn_1.png"), (512, "drawn_2.png")):
        both.paste(Image.open(EXAMPLES / name).convert("RGB").resize((512, 512)), (place, 0))
    both.save(tmp_path / "both.png")
    visitor.upload(tmp_path / "both.png", driver)
    assert "2 faces found: choose one" in page.inner_text("#portrait-told")
    page.click("[data-pick=portrait-face][data-number='2']")
    assert page.is_checked("#portrait-face input[value='2']")
    visitor.fill("start", "1")
    visitor.fill("end", "1.8")
    visitor.animate()
    visitor.wait_result()
    about = json.loads((served.folder / visitor.watched / "job.json").read_text())
    assert about["settings"] | {"portrait_face": "2", "trim": "1:1.8"} == about["settings"]
    assert page.get_attribute("#trio video[data-follow]", "data-follow") == "1"
    for kind in ("webm", "gif"):
        page.click(f"#make-{kind}")
        with page.expect_download() as download:
            page.click(f"a.download[href*='result.{kind}']")
        assert download.value.suggested_filename == f"both-talking_b.{kind}"
        download.value.save_as(tmp_path / f"made.{kind}")
        assert contents(tmp_path / f"made.{kind}") == (20, 25.0, kind == "webm")


def test_no_file_of_the_machine_can_be_named(served: Served, visitor: Visitor) -> None:
    secret = served.folder / "rates.json"
    secret.touch()
    for path in ("/etc/passwd", str(secret), str(Path(__file__))):
        with pytest.raises(HTTPError) as error:
            urlopen(f"{served.url}gradio_api/file={path}")
        assert error.value.code in (403, 404)
    with visitor.page.expect_request(lambda request: "drawn_1.png" in (request.post_data or "")[:2000]) as request:
        visitor.page.set_input_files("#portrait input[type=file]", PORTRAIT)
    asked = json.loads(request.value.post_data)
    for number, path in enumerate(("/etc/passwd", str(EXAMPLES / "drawn_1.png"), str(secret))):
        asked["data"][0]["path"], asked["session_hash"] = path, f"stranger{number}"
        joined, direct = visitor.page.evaluate(
            """async asked => {
                const post = to => fetch('gradio_api/' + to, {method: 'POST', body: JSON.stringify(asked),
                    headers: {'content-type': 'application/json'}});
                await post('queue/join');
                const told = await fetch('gradio_api/queue/data?session_hash=' + asked.session_hash);
                const answer = await post('run/predict');
                return [await told.text(), answer.status + await answer.text()];
            }""",
            asked,
        )
        assert "process_completed" in joined
        assert '"success":false' in joined
        assert direct.startswith("500")
        assert "root:" not in joined + direct


def test_what_ends_with_the_studio_is_offered_for_resuming(
    browser: Any, serve: Callable[..., Served], driver: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "history"
    served = serve(folder, "--share-token", "a-token-to-share")
    assert served.url.endswith("?token=a-token-to-share")
    visitor = Visitor(browser, served.url)
    visitor.upload(PORTRAIT, driver)
    visitor.fill("setting-size", "800")
    visitor.fill("end", "1")
    with pytest.raises(HTTPError, match="401"):
        urlopen(served.url.partition("?")[0])
    visitor.animate()
    visitor.wait("Drawing frames")
    assert served.end() == 0
    assert [line for line in served.lines if "rror" in line] == []
    name = served.newest
    assert json.loads((folder / name / "state.json").read_text())["state"] == "interrupted"
    again = serve(folder)
    visitor.url = again.url
    visitor.open()
    visitor.wait("1 animation was interrupted", "body")
    visitor.page.get_by_role("tab", name="History").click()
    visitor.page.locator(f"[data-act=resume][data-entry='{name}']").click()
    visitor.wait_result()
    assert contents(folder / name / "result.mp4") == (25, 25.0, True)
    visitor.context.close()
