"""Files written: exact times, sound in sync, marked, whole or not there at all."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clips import SAMPLE_RATE, beep_onsets, index_of, make_clip, numbered_frame, video_times
from flashportrait.errors import UserError
from flashportrait.marking.provenance import DIGITAL_SOURCE_TYPE, is_marked
from flashportrait.media.place import written_whole
from flashportrait.media.reader import VideoReader
from flashportrait.media.writer import VideoWriter, check_output

NTSC = Fraction(30000, 1001)


def copy(source: Path, target: Path, **reading: object) -> VideoReader:
    """Pass a clip through the reader and the writer, as a pipeline would."""
    reader = VideoReader(source, **reading)
    frames = list(reader)
    with VideoWriter(target, reader.info.rate, times=reader.times, audio=reader.audio) as writer:
        for frame in frames:
            writer.write(frame)
    return VideoReader(target)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frames=st.integers(1, 60),
    rate=st.sampled_from([NTSC, Fraction(24000, 1001), Fraction(25), Fraction(60), Fraction(15), Fraction(25, 2)]),
)
def test_frames_and_rate_come_out_as_they_went_in(tmp_path: Path, frames: int, rate: Fraction) -> None:
    made = copy(make_clip(tmp_path / "in.mp4", frames, rate), tmp_path / "out.mp4")
    assert [index_of(frame) for frame in made] == list(range(frames))
    assert made.info.frames == frames
    if frames > 1:
        assert made.info.rate == rate
        assert made.times == [index / rate for index in range(frames)]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(gaps=st.lists(st.integers(1, 40), min_size=2, max_size=20))
def test_a_variable_rate_stays_as_it_was(tmp_path: Path, gaps: list[int]) -> None:
    times = [Fraction(int(tick), 200) for tick in np.cumsum([0, *gaps])]
    made = copy(make_clip(tmp_path / "in.mp4", len(times), times=times), tmp_path / "out.mp4")
    assert made.times == times


def test_the_header_states_frames_and_rate(tmp_path: Path) -> None:
    copy(make_clip(tmp_path / "in.mp4", 75, NTSC, sound_seconds=2.5), tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        video = container.streams.video[0]
        assert (video.frames, video.average_rate, video.start_time) == (75, NTSC, 0)
        assert video.duration * video.time_base == 75 / NTSC


@pytest.mark.parametrize(
    ("source", "target", "sound_codec", "copied"),
    [
        ("in.mp4", "out.mp4", "aac", True),
        ("in.mkv", "out.mp4", "libmp3lame", True),
        ("in.mkv", "out.mp4", "pcm_s16le", False),
        ("in.mkv", "out.mp4", "libopus", True),
        ("in.ts", "out.mp4", "aac", True),
        ("in.mp4", "out.mkv", "aac", True),
        ("in.mp4", "out.mov", "aac", True),
        ("in.mp4", "out.webm", "aac", False),
    ],
)
def test_sound_stays_in_sync(tmp_path: Path, source: str, target: str, sound_codec: str, copied: bool) -> None:
    clip = make_clip(tmp_path / source, 90, NTSC, sound_seconds=3, sound_codec=sound_codec)
    out = tmp_path / target
    copy(clip, out)
    expected = [onset - float(video_times(clip)[0]) for onset in beep_onsets(clip)]
    assert expected == pytest.approx([0.5, 1.5, 2.5], abs=0.012)
    assert beep_onsets(out) == pytest.approx(expected, abs=0.002 if copied else 0.012)
    assert video_times(out)[0] == 0
    with av.open(str(clip)) as a, av.open(str(out)) as b:
        kept = (
            a.streams.audio[0].codec_context.codec.canonical_name
            == b.streams.audio[0].codec_context.codec.canonical_name
        )
        assert kept == copied
        lengths = [float(c.duration) / av.time_base for c in (a, b)]
    assert lengths[0] == pytest.approx(lengths[1], abs=0.06)


@pytest.mark.parametrize("sound_codec", ["aac", "pcm_s16le"])
def test_trimmed_sound_begins_with_the_first_frame(tmp_path: Path, sound_codec: str) -> None:
    clip = make_clip(tmp_path / "in.mkv", 240, 24, sound_seconds=10, sound_codec=sound_codec)
    out = tmp_path / "out.mp4"
    made = copy(clip, out, trim="4.25:8")
    assert made.info.frames == 90
    assert beep_onsets(out) == pytest.approx([0.25, 1.25, 2.25, 3.25], abs=0.012)
    with av.open(str(out)) as container:
        sound = container.streams.audio[0]
        last = max((packet.pts + packet.duration) for packet in container.demux(sound) if packet.size)
        assert last * sound.time_base == pytest.approx(3.75, abs=0.06)


def test_sound_that_starts_before_the_pictures_stays_in_sync(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", 50, 25, sound_seconds=3)
    late = tmp_path / "late.mkv"
    with av.open(str(clip)) as source, av.open(str(late), "w") as sink:
        streams = {s.index: sink.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.size:
                shift = round(Fraction(3, 10) / packet.time_base) if packet.stream.type == "video" else 0
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = streams[packet.stream_index]
                sink.mux(packet)
    copy(late, tmp_path / "out.mp4")
    assert beep_onsets(tmp_path / "out.mp4") == pytest.approx([0.2, 1.2, 2.2], abs=0.003)
    assert video_times(tmp_path / "out.mp4")[0] == 0


def test_real_sound_is_copied_packet_for_packet(shared: Path, tmp_path: Path) -> None:
    clip = shared / "media" / "driving" / "liveportrait_d20.mp4"
    with VideoWriter(tmp_path / "out.mp4", Fraction(25), audio=VideoReader(clip).audio) as writer:
        for _ in range(175):
            writer.write(numbered_frame(0))

    def packets(path: Path) -> list[tuple[Fraction, bytes]]:
        with av.open(str(path)) as container:
            return [(p.pts * p.time_base, bytes(p)) for p in container.demux(container.streams.audio[0]) if p.size]

    assert packets(tmp_path / "out.mp4") == packets(clip)
    lengths = []
    for path in (clip, tmp_path / "out.mp4"):
        with av.open(str(path)) as container:
            sound = container.streams.audio[0]
            lengths.append(float(sound.duration * sound.time_base))
    assert lengths[1] == pytest.approx(lengths[0], abs=1e-4)


def test_any_file_name_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clip = make_clip(tmp_path / "plain.mp4", 3, sound_seconds=1).rename("take 1: 50%d café.mp4")
    made = copy(Path(clip.name), Path("file:out'1.mp4"))
    assert made.info.frames == 3
    assert made.info.has_audio


def test_colours_survive(tmp_path: Path) -> None:
    colours = np.array([[200, 150, 120], [30, 60, 90], [255, 0, 0], [0, 0, 255]], np.uint8)
    frame = np.repeat(np.repeat(colours[None], 32, 0), 32, 1)
    with VideoWriter(tmp_path / "out.mp4", Fraction(25)) as writer:
        writer.write(frame)
    (read,) = VideoReader(tmp_path / "out.mp4")
    assert np.abs(read[16, 16::32].astype(int) - colours).max() <= 4


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(32, 200), height=st.integers(32, 120))
def test_any_size_is_written_an_odd_side_gaining_one_repeated_line(tmp_path: Path, width: int, height: int) -> None:
    frame = np.full((height, width, 3), (60, 120, 200), np.uint8)
    with VideoWriter(tmp_path / "out.mp4", Fraction(25)) as writer:
        writer.write(frame)
    (read,) = VideoReader(tmp_path / "out.mp4")
    assert read.shape == (height + height % 2, width + width % 2, 3)
    assert writer.size == (read.shape[1], read.shape[0])
    assert np.abs(read.astype(int) - frame[0, 0]).max() <= 4


def test_the_part_plays_while_it_is_written(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    with VideoWriter(tmp_path / "out.mp4", Fraction(10)) as writer:
        for _ in range(200):
            writer.write(noise)
        assert not writer.path.exists()
        seen = sum(1 for _ in VideoReader(writer.part))
        assert 20 <= seen < 200
    assert VideoReader(writer.path).info.frames == 200
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_error_and_the_old_file_stays(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"old")

    def fail() -> None:
        with VideoWriter(out, Fraction(25)) as writer:
            for index in range(30):
                writer.write(numbered_frame(index))
            raise error

    with pytest.raises(error):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert out.read_bytes() == b"old"


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    """A limit on file size stands in for the full disk: the write fails in the same place."""
    resource = pytest.importorskip("resource")
    assert resource
    code = f"""
import resource, numpy as np
from fractions import Fraction
from flashportrait.errors import UserError
from flashportrait.media.writer import VideoWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
try:
    with VideoWriter({str(tmp_path / "out.mp4")!r}, Fraction(10)) as writer:
        for _ in range(400):
            writer.write(np.random.default_rng(_).integers(0, 255, (64, 64, 3), np.uint8))
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_results_are_marked_as_synthetic(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    with VideoWriter(out, Fraction(25), model="toy") as writer:
        writer.write(numbered_frame(0))
    assert is_marked(out)
    with av.open(str(out)) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    assert DIGITAL_SOURCE_TYPE in tags["comment"]
    assert "model toy" in tags["comment"]
    with VideoWriter(out, Fraction(25), mark=False) as writer:
        writer.write(numbered_frame(0))
    assert not is_marked(out)


def test_the_xmp_box_is_well_formed_and_last(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    with VideoWriter(out, Fraction(25)) as writer:
        writer.write(numbered_frame(0))
    data, offset, boxes = out.read_bytes(), 0, []
    while offset < len(data):
        size, kind = int.from_bytes(data[offset : offset + 4], "big"), data[offset + 4 : offset + 8]
        size = size or len(data) - offset
        boxes.append((kind, data[offset + 8 : offset + size]))
        offset += size
    assert offset == len(data)
    assert boxes[-1][0] == b"uuid"
    assert boxes[-1][1][16:].startswith(b"<?xpacket begin=")


def test_bad_places_are_refused_before_any_work(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", 2)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "soft.mp4").symlink_to(clip)
    (tmp_path / "hard.mp4").hardlink_to(clip)
    reasons = {
        "out.xyz": "kind of file",
        "nowhere/out.mp4": "no folder",
        "folder.mp4": "is a folder",
        "in.mp4": "also an input",
        "soft.mp4": "also an input",
        "hard.mp4": "also an input",
    }
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason):
            check_output(tmp_path / name, [clip])
    assert check_output(tmp_path / "fine.mp4", [clip]) == tmp_path / "fine.mp4"


def test_half_a_second_of_silence_is_not_mistaken_for_a_beep(tmp_path: Path) -> None:
    """The measuring itself: beeps are found where they were put."""
    clip = make_clip(tmp_path / "in.mkv", 50, 25, sound_seconds=2, sound_codec="pcm_s16le")
    assert beep_onsets(clip) == pytest.approx([0.5, 1.5], abs=20 / SAMPLE_RATE)


def test_a_file_of_any_kind_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    with written_whole(path) as part:
        part.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"

    def fail() -> None:
        with written_whole(path) as part:
            part.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="disk is full"):
        fail()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
