"""Sound of any rate and layout ends up in the file, in sync; sound that fails never costs a frame."""

from __future__ import annotations

import errno
from fractions import Fraction
from pathlib import Path

import av
import pytest

from clips import beep_onsets, make_clip, numbered_frame
from flashportrait.errors import UserError
from flashportrait.media import audio
from flashportrait.media.audio import encoder_rate
from flashportrait.media.reader import VideoReader
from flashportrait.media.writer import VideoWriter, check_output


def carried(clip: Path, out: Path) -> VideoWriter:
    """Write a clip's frames and sound anew, having checked that this can be done."""
    reader = VideoReader(clip)
    check_output(out, [clip], reader.audio)
    with VideoWriter(out, reader.info.rate, audio=reader.audio) as writer:
        for frame in reader:
            writer.write(frame)
    return writer


@pytest.mark.parametrize("suffix", [".mkv", ".mov"])
@pytest.mark.parametrize(
    ("rate", "layout", "expected_rate", "expected_channels"),
    [
        (6000, "mono", 8000, 1),
        (40000, "stereo", 44100, 2),
        (192000, "mono", 48000, 1),
        (48000, "5.1", 48000, 2),
        (44100, "7.1", 44100, 2),
        (44100, "quad", 44100, 2),
        (48000, "3 channels", 48000, 2),
        (48000, "16 channels", 48000, 2),
        (48000, "ambisonic 1", 48000, 2),
    ],
)
def test_pcm_that_the_encoder_refuses_is_resampled_and_mixed(
    tmp_path: Path, suffix: str, rate: int, layout: str, expected_rate: int, expected_channels: int
) -> None:
    clip = make_clip(
        tmp_path / f"in{suffix}", 50, sound_seconds=2, sound_codec="pcm_s16le", sound_rate=rate, sound_layout=layout
    )
    writer = carried(clip, tmp_path / "out.mp4")
    assert (writer.sound_lost, writer.warnings) == (None, [])
    with av.open(str(tmp_path / "out.mp4")) as container:
        sound = container.streams.audio[0]
        assert (sound.codec_context.name, sound.rate, sound.channels) == ("aac", expected_rate, expected_channels)
    assert beep_onsets(tmp_path / "out.mp4") == pytest.approx([0.5, 1.5], abs=0.01)


@pytest.mark.parametrize(("own", "encoded"), [(6000, 8000), (11025, 11025), (40000, 44100), (96000, 96000), (1, 8000)])
def test_the_rate_is_kept_or_the_next_common_one_above(own: int, encoded: int) -> None:
    assert encoder_rate(av.Codec("aac", "w").audio_rates, own) == encoded


def test_the_highest_rate_takes_what_is_above_it() -> None:
    assert encoder_rate([8000, 48000], 192_000) == 48_000
    assert encoder_rate(None, 40_000) == 40_000


def test_sound_whose_rate_changes_on_the_way_is_carried_on(tmp_path: Path) -> None:
    """MPEG transport streams are joined end to end like this."""
    joined = b""
    for rate, start in ((44100, 0), (22050, 1)):
        part = make_clip(
            tmp_path / f"{rate}.ts",
            25,
            sound_seconds=1,
            sound_codec="libmp3lame",
            sound_rate=rate,
            muxer_options={"output_ts_offset": str(start)},
        )
        joined += part.read_bytes()
    (tmp_path / "joined.ts").write_bytes(joined)
    span = VideoReader(tmp_path / "joined.ts").audio
    with VideoWriter(tmp_path / "out.webm", Fraction(25), audio=span) as writer:
        for index in range(50):
            writer.write(numbered_frame(index))
    assert writer.sound_lost is None
    assert VideoReader(tmp_path / "out.webm").info.frames == 50
    assert beep_onsets(tmp_path / "out.webm") == pytest.approx([0.5, 1.5], abs=0.1)


class _FailsAfter:
    """Stands in for the library's resampler: works, then raises what FFmpeg would."""

    def __init__(self, calls: int):
        self._left = calls

    def wrap(self, resampler: type) -> type:
        failing = self

        class Resampler(resampler):
            def __call__(self, frame: av.AudioFrame | None) -> list[av.AudioFrame]:
                failing._left -= 1
                if failing._left < 0:
                    raise av.ArgumentError(errno.EINVAL, "Invalid argument", "resampler")
                return super().__call__(frame)

        return Resampler


def test_sound_that_fails_on_the_way_costs_no_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "in.mkv", 75, sound_seconds=3, sound_codec="pcm_s16le")
    monkeypatch.setattr(audio, "_Resampler", _FailsAfter(66).wrap(audio._Resampler))
    reader = VideoReader(clip)
    with VideoWriter(tmp_path / "out.mp4", reader.info.rate, audio=reader.audio) as writer:
        for frame in reader:
            writer.write(frame)
    assert "invalid argument, at 1.4 s" in writer.sound_lost
    assert [line for line in writer.warnings if "lacks sound" in line]
    assert len(list(VideoReader(tmp_path / "out.mp4"))) == 75
    assert beep_onsets(tmp_path / "out.mp4") == pytest.approx([0.5], abs=0.01)


def test_sound_that_fails_at_once_leaves_a_silent_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "in.mkv", 25, sound_seconds=1, sound_codec="pcm_s16le")
    monkeypatch.setattr(audio, "_Resampler", _FailsAfter(0).wrap(audio._Resampler))
    reader = VideoReader(clip)
    with pytest.raises(UserError, match=r"sound of .*in.mkv.* can't be put .*--no-audio"):
        check_output(tmp_path / "out.mp4", [clip], reader.audio)
    with VideoWriter(tmp_path / "out.mp4", reader.info.rate, audio=reader.audio) as writer:
        for frame in reader:
            writer.write(frame)
    assert writer.sound_lost == "invalid argument"
    made = VideoReader(tmp_path / "out.mp4")
    assert len(list(made)) == 25
    assert not made.info.has_audio


def test_a_span_without_sound_gives_a_file_without(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", 75, sound_seconds=1)
    reader = VideoReader(clip, trim="2:3")
    with VideoWriter(tmp_path / "out.mp4", reader.info.rate, audio=reader.audio) as writer:
        for frame in reader:
            writer.write(frame)
    assert writer.sound_lost is None
    assert not VideoReader(tmp_path / "out.mp4").info.has_audio
