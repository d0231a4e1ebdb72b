"""A job: every setting that decides an animation or how it is made, under one name each everywhere.

The same names are the fields of ``Job``, keys in JSON, columns in CSV, and (with dashes) options of
``flashportrait animate``. To add a setting, add a field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from flashportrait.errors import UserError
from flashportrait.job.fields import (
    LABEL,
    Box,
    Setting,
    box,
    choice,
    describe,
    label,
    number,
    path,
    paths,
    predictor,
    rate,
    setting,
    settings_of,
    switch,
    text,
    trim,
    whole,
)

MODELS = ("nano", "14b", "14b-fast")
"""Models known by name."""

CLIP, MOTION = "driving video", "motion"
FACE, PORTRAIT_FACE = "which face", "which face of the portrait"
SAMPLING = "sampling (default: the model's own)"
MARKS = "marks (see docs/responsible-use.md)"
TEXT = "text (models with a text encoder: 14b)"
DEVICE, MEMORY, LORA = "device", "memory (14b; default: what fits, planned before it starts)", "LoRA"

GAIN = number(0, 5)
POSITIVE = whole(1)


class JobError(UserError):
    """A job with settings that can't be honoured. ``problems`` has all of them, one line each, by name."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__("; ".join(self.problems.values()))

    def __reduce__(self) -> tuple[type[JobError], tuple[dict[str, str]]]:
        return type(self), (self.problems,)  # or else a copy in another process would be made from the text


@dataclass(frozen=True)
class Job:
    """One animation. Values are read as JSON or a table has them too: text where a number or path is meant.

    Raises:
        JobError: values that can't be honoured, all of them together.
    """

    portrait: Path = setting(path, "a picture: JPEG, PNG, WebP, ...", metavar="PORTRAIT")
    """The picture to animate."""
    driving: Path = setting(
        path,
        "a video, a folder of frames, or a template made by extract",
        metavar="DRIVING",
    )
    """The video whose motion is taken, or a motion template (.safetensors). Pictures will do: an animated GIF, WebP or
    PNG, a folder, a pattern (``frames_%04d.png``, ``frames/*.png``), or one picture with ``frames``."""
    output: Path = setting(path, ".mp4, .mov, .m4v, .mkv, .webm, .gif, .webp, or a folder of PNGs", metavar="OUT")
    """The video to write; its ending chooses the kind. A pattern (``frames_%04d.png``), or a name without an ending,
    which is a folder, gets numbered PNG files."""
    model: str = setting(text, "nano, 14b, 14b-fast or a folder; default: nano", default="nano", metavar="NAME")
    """A model's name, or the folder of a saved pipeline."""
    view: Literal["whole", "face"] = setting(
        choice("whole", "face"),
        "whole: the picture as it was given (default); face: a square around the face",
        default="whole",
    )
    """``whole``: the picture as it was given, in which the head moves; ``face``: a square around the face."""
    size: int | None = setting(
        whole(16, 4096),
        "longer side, 16 to 4096; default: the portrait's own, at most 1280 (512 around a face); 14b: 720",
        default=None,
        metavar="PIXELS",
    )
    """Pixels of the result's longer side, 16 to 4096; unless given the portrait's own or the model's."""
    seed: int = setting(
        whole(-(2**63), 2**63 - 1, "of at most 64 bits"),
        "of the noise, at temperatures above 0; default: 0",
        default=0,
        metavar="SEED",
    )
    """Of the noise; counts at temperatures above 0."""
    audio: bool = setting(switch, "carry the driving video's sound along (default: on)", default=True)
    """Whether the driving video's sound is carried along."""
    compare: bool = setting(switch, "show portrait, driver and result side by side", default=False)
    """Whether portrait, driver and result are shown side by side."""
    keep_work: bool = setting(switch, "keep OUT.work, from which resume goes on, at the end", default=False)
    """Whether the work folder stays when the run has ended well."""
    restart: bool = setting(switch, "drop the progress of an unfinished run to this output", default=False)
    """Whether the progress of an unfinished run to this output is dropped; refused otherwise."""

    trim: str | None = setting(
        trim,
        "use only this part: seconds (2.5:7), frames (60f:180f) or clock times (1:30-2:45)",
        default=None,
        group=CLIP,
        metavar="START:END",
    )
    """The part of the driving video to use: seconds, frames or clock times; all unless given."""
    fps: Fraction | None = setting(
        rate,
        "resample to this rate (25, 29.97, 30000/1001); default: that of the video",
        default=None,
        group=CLIP,
        metavar="RATE",
    )
    """Frames per second to resample the driving video to, 1 to 240; its own rate unless given."""

    frames: int | None = setting(
        POSITIVE, "make this many frames, where DRIVING is one picture", default=None, group=CLIP, metavar="N"
    )
    """How many frames to make where the driver is one picture, whose expression is held; refused otherwise."""

    head: float = setting(
        GAIN,
        "gain of head motion, 0 to 5: 0 still, 1 as in the video (default)",
        default=1.0,
        group=MOTION,
        metavar="GAIN",
    )
    """Gain of head motion, 0 (still) to 5; 1 as in the video."""
    eyes: float = setting(GAIN, "gain of gaze and lids, 0 to 5", default=1.0, group=MOTION, metavar="GAIN")
    """Gain of gaze and lids, 0 to 5."""
    emotion: float = setting(GAIN, "gain of brows, cheeks and nose, 0 to 5", default=1.0, group=MOTION, metavar="GAIN")
    """Gain of brows, cheeks and nose, 0 to 5."""
    mouth: float = setting(GAIN, "gain of jaw and lips, 0 to 5", default=1.0, group=MOTION, metavar="GAIN")
    """Gain of jaw and lips, 0 to 5."""
    motion: Literal["adapted", "absolute", "relative"] = setting(
        choice("adapted", "absolute", "relative"),
        "adapted: the driver's pose and expression, but at rest the portrait's own face, turned aside as it is "
        "(default); absolute: as they are; relative: only their changes, from the portrait's own",
        default="adapted",
        group=MOTION,
    )
    """``adapted``: the driver's pose and expression, but at rest the portrait's own face, turned aside as it is;
    ``absolute``: as they are; ``relative``: only their changes, from the portrait's own."""
    smooth: bool = setting(
        switch, "take the tracking's jitter out; blinks stay (default: on)", default=True, group=MOTION
    )
    """Whether the tracking's jitter is taken out."""
    face: int | None = setting(
        POSITIVE, "face number N of the video (see: flashportrait faces)", default=None, group=FACE, metavar="N"
    )
    """Number of the driving video's face to follow, from 1 at the left; the most prominent unless given."""
    face_box: Box | None = setting(
        box, "the face inside this box of the first frame", default=None, group=FACE, metavar="X0,Y0,X1,Y1"
    )
    """Left, top, right, bottom in pixels of the driving video's first frame."""
    portrait_face: int | None = setting(
        POSITIVE, "face number N (see: flashportrait faces)", default=None, group=PORTRAIT_FACE, metavar="N"
    )
    """Number of the portrait's face to animate, from 1 at the left."""
    portrait_box: Box | None = setting(
        box, "the face inside this box; for drawings", default=None, group=PORTRAIT_FACE, metavar="X0,Y0,X1,Y1"
    )
    """Left, top, right, bottom in pixels of the portrait."""

    prompt: str | None = setting(
        text, "what is to be seen, in words; default: none", default=None, group=TEXT, metavar="WORDS"
    )
    """What is to be seen, in words; none unless given."""
    negative_prompt: str | None = setting(
        text,
        "what guidance by text leads away from, at text scales above 1; default: the model's own",
        default=None,
        group=TEXT,
        metavar="WORDS",
    )
    """What guidance by text leads away from; the model's own unless given."""

    steps: int | None = setting(POSITIVE, "denoising steps", default=None, group=SAMPLING, metavar="N")
    """Denoising steps, from 1; the model's own unless given, as all settings of sampling."""
    text_scale: float | None = setting(
        number(0), "guidance by text, from 0", default=None, group=SAMPLING, metavar="SCALE"
    )
    """Guidance by text, from 0; 1 follows the prompt as it stands."""
    emotion_scale: float | None = setting(
        number(0), "guidance by expression, from 0", default=None, group=SAMPLING, metavar="SCALE"
    )
    """Guidance by expression, from 0; 1 follows the driver as it stands."""
    window: int | None = setting(
        POSITIVE,
        "latent frames denoised together; the 14B's default: the longest of 51, 41, 31, 21, 13 that fits",
        default=None,
        group=SAMPLING,
        metavar="N",
    )
    """Latent frames denoised together, from 1; with the 14B the longest of 51, 41, 31, 21 and 13 that fits."""
    overlap: int | None = setting(
        whole(0), "latent frames that neighbouring windows share", default=None, group=SAMPLING, metavar="N"
    )
    """Latent frames that neighbouring windows share, from 0 and fewer than a window's."""
    schedule: Literal["synchronous", "diagonal", "causal"] | None = setting(
        choice("synchronous", "diagonal", "causal"), "order of work over windows", default=None, group=SAMPLING
    )
    """Order of work over windows."""
    temperature: float | None = setting(
        number(0),
        "standard deviation of the starting noise; at 0 seeds don't count",
        default=None,
        group=SAMPLING,
        metavar="T",
    )
    """Standard deviation of the noise that sampling starts from, from 0."""
    refine: float | None = setting(
        number(0, 1),
        "share of the network's changes to what is drawn on the face mesh, 0 to 1; at 0 the mesh alone draws",
        default=None,
        group=SAMPLING,
        metavar="SHARE",
    )
    """Share, 0 to 1, of the network's changes to what is drawn on the face mesh; for models that draw on one."""
    speed: Literal["exact", "balanced", "fast", "turbo"] | None = setting(
        choice("exact", "balanced", "fast", "turbo"), "how many steps to predict", default=None, group=SAMPLING
    )
    """How many steps are predicted rather than computed."""
    predictor: str | None = setting(
        predictor, "exactly how, as in alp:interval=5,order=3", default=None, group=SAMPLING, metavar="SPEC"
    )
    """How steps are predicted, in the place of ``speed``."""

    mark: bool = setting(
        switch,
        "say in the file that it is synthetic: in its metadata, and in signed C2PA Content Credentials (default: on)",
        default=True,
        group=MARKS,
    )
    """Whether the file says that it is synthetic: in its metadata, and in signed C2PA Content Credentials."""
    ingredients: bool = setting(
        switch,
        "name portrait and driver in the credentials, by file name and SHA-256 (default: on)",
        default=True,
        group=MARKS,
    )
    """Whether the credentials name portrait and driver, by file name and SHA-256."""
    sign_cert: Path | None = setting(
        path,
        "sign with this certificate; default: FLASHPORTRAIT_SIGN_CERT, or one made on this machine, which verifiers "
        "call untrusted",
        default=None,
        group=MARKS,
        metavar="PEM",
    )
    """The certificate to sign with, and those that vouch for it; this machine's own unless given."""
    sign_key: Path | None = setting(
        path, "its private key; default: FLASHPORTRAIT_SIGN_KEY", default=None, group=MARKS, metavar="PEM"
    )
    """The private key of ``sign_cert``."""
    label: str | None = setting(
        label,
        f"write this on every frame; without TEXT: {LABEL}",
        default=None,
        group=MARKS,
        metavar="TEXT",
        bare=LABEL,
    )
    """Words written on every frame, in Latin letters without accents; none unless given."""
    label_corner: Literal["top-left", "top-right", "bottom-left", "bottom-right"] = setting(
        choice("top-left", "top-right", "bottom-left", "bottom-right"),
        "where; default: bottom-right",
        default="bottom-right",
        group=MARKS,
    )
    """Corner of the label."""
    label_size: float = setting(
        number(1, 25),
        "height of its letters, percent of the shorter side, 1 to 25; default: 5",
        default=5.0,
        group=MARKS,
        metavar="PERCENT",
    )
    """Height of the label's letters, in percent of the frame's shorter side, 1 to 25."""

    device: str | None = setting(
        text, "cpu, cuda, cuda:1, mps; default: the best there is", default=None, group=DEVICE, metavar="NAME"
    )
    """Where to compute, by torch's name; the best there is unless given."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = setting(
        choice("float32", "bfloat16", "float16"),
        "default: float32, or bfloat16 on CPUs with matrix units for it; the 14B: bfloat16",
        default=None,
        group=DEVICE,
    )
    """Type of the networks' numbers."""
    threads: int | None = setting(POSITIVE, "CPU threads; default: all cores", default=None, group=DEVICE, metavar="N")
    """CPU threads of the numeric libraries, from 1; all cores unless given."""

    attention: Literal["native", "cudnn", "flash", "flash3", "sage", "flash3-fp8"] | None = setting(
        choice("native", "cudnn", "flash", "flash3", "sage", "flash3-fp8"),
        "kernel of attention; default: FlashAttention where it is installed, else PyTorch's own; sage and flash3-fp8 "
        "round to 8 bits",
        default=None,
        group=DEVICE,
    )
    """Kernel of attention; the best installed one that is exact unless given."""
    compile: bool | None = setting(
        switch,
        "compile the network's blocks first: half a minute, and a fifth faster from then on; default: where the 14B "
        "runs long enough on a GPU to gain from it",
        default=None,
        group=DEVICE,
    )
    """Whether the network's blocks are compiled before they are run; where that pays unless given."""

    weights: Literal["bf16", "fp8"] | None = setting(
        choice("bf16", "fp8"),
        "type in which the transformer's blocks are kept, and multiplied where the card can; default: what fits",
        default=None,
        group=MEMORY,
    )
    """Type in which the 14B's blocks are kept, and multiplied where the card can; what fits unless given."""
    offload: bool | None = setting(
        switch,
        "keep the transformer's blocks in host memory and stream them, or keep them on the device (of several, which "
        "may share them out)",
        default=None,
        group=MEMORY,
    )
    """Whether the 14B's transformer blocks are streamed from host memory; what fits unless given."""

    lora: tuple[Path, ...] = setting(
        paths, "merge this LoRA into the model; may be given several times", default=(), group=LORA, metavar="FILE"
    )
    """LoRA files to merge into the model."""
    lora_strength: float = setting(number(), "of those LoRAs; default: 1", default=1.0, group=LORA, metavar="S")
    """Strength of each of those LoRAs; 1 as trained."""

    def __post_init__(self) -> None:
        values, problems = read_settings({field.name: getattr(self, field.name) for field in fields(self)})
        if problems := {**problems, **_contradictions(values)}:
            raise JobError(problems)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def settings(cls) -> dict[str, Setting]:
        """Its fields by name, each with help, group, choices and default, for those who offer them."""
        return settings_of(cls)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """A job from JSON's values, or from a row of a table, where None and empty text mean the default.

        Raises:
            JobError: names that are not a job's, what is missing, and values that can't be honoured, all together.
        """
        known = cls.settings()
        given = {name: value for name, value in values.items() if value is not None and value != ""}
        problems = {
            str(name): f"{name} is no setting of a job{_meant(str(name), known)}" for name in given if name not in known
        }
        problems |= {
            name: f"{name} is missing: {entry.help}"
            for name, entry in known.items()
            if entry.required and name not in given
        }
        clean, wrong = read_settings({name: value for name, value in given.items() if name in known})
        if problems := {**problems, **wrong, **_contradictions(clean)}:
            raise JobError(problems)
        return cls(**clean)

    def to_dict(self) -> dict[str, Any]:
        """All settings, fit for JSON; ``Job.from_dict`` gives the same job again."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def absolute(self) -> Job:
        """The same job with absolute paths, good from any folder."""
        model = str(Path(self.model).absolute()) if Path(self.model).is_dir() else self.model
        return replace(
            self,
            **{name: getattr(self, name).absolute() for name in ("portrait", "driving", "output")},
            **{name: file and file.absolute() for name in ("sign_cert", "sign_key") for file in [getattr(self, name)]},
            lora=tuple(file.absolute() for file in self.lora),
            model=self.model if self.model in MODELS else model,
        )


def read_settings(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Some of a job's settings as a job holds them, and what is wrong with the others, by name."""
    known = settings_of(Job)
    clean: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, value in values.items():
        if value is None and not known[name].required and known[name].default is None:
            clean[name] = None
            continue
        try:
            clean[name] = known[name].read(value)
        except UserError as error:
            problems[name] = f"{name}: {error}"
        except ValueError as error:
            problems[name] = f"{name} is {describe(value)}: {error}"
    return clean, problems


def _contradictions(values: Mapping[str, Any]) -> dict[str, str]:
    """Settings that are right each but not together."""
    problems = {}
    if values.get("speed") is not None and values.get("predictor") is not None:
        problems["speed"] = "speed and predictor both choose the steps to compute: give one of them"
    window, overlap = values.get("window"), values.get("overlap")
    if window is not None and overlap is not None and overlap >= window:
        problems["overlap"] = f"overlap is {overlap}: give fewer than the window's {window} latent frames"
    signing = [name for name in ("sign_cert", "sign_key") if values.get(name) is not None]
    if len(signing) == 1:
        problems[signing[0]] = (
            f"{signing[0]} is given without its {'key' if signing[0] == 'sign_cert' else 'certificate'}: give both"
        )
    elif signing and not values.get("mark", True):
        problems["sign_cert"] = "sign_cert signs the mark, which is left out: give one of the two settings"
    return problems


def _meant(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name.replace("-", "_"), known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _plain(value: Any) -> Any:
    """Paths and fractions as text, also inside lists."""
    if isinstance(value, (Path, Fraction)):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
