"""How a job's result says that it is synthetic: settled before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flashportrait.job.job import Job
from flashportrait.job.progress import Teller

if TYPE_CHECKING:
    from flashportrait.marking.credentials import Credentials, Ingredient
    from flashportrait.marking.label import Label


@dataclass(frozen=True)
class Marks:
    """What goes into the file, and onto its frames."""

    credentials: Credentials | None
    label: Label | None
    description: str
    """All of it in words."""


def open_marks(job: Job, teller: Teller) -> Marks:
    """Prepare what signs and labels a job's result; says what there is to say the first time on a machine.

    Raises:
        UserError: nothing can be signed with the certificate.
    """
    from flashportrait.marking.certificate import signing_identity
    from flashportrait.marking.credentials import Credentials, can_carry
    from flashportrait.marking.label import Label
    from flashportrait.marking.machine import consent_rule

    if rule := consent_rule():
        teller.note(rule)
    label = None if job.label is None else Label(job.label, job.label_corner, job.label_size)
    visible = "" if label is None else f"; the label '{label.text}' on every frame"
    if not job.mark:
        return Marks(None, label, f"none, as asked for (--no-mark){visible}")
    if not can_carry(job.output):
        teller.note(
            f"a {job.output.suffix} file can't carry Content Credentials: only its metadata says that it is synthetic; "
            "give an output in .mp4, .mov or .m4v for both"
        )
        return Marks(None, label, f"metadata (IPTC), unsigned{visible}")
    identity = signing_identity(job.sign_cert, job.sign_key)
    for note in identity.notes:
        teller.note(note)
    credentials = Credentials(identity, model=Path(job.model).name, ingredients=_ingredients(job))
    return Marks(credentials, label, f"metadata (IPTC); {credentials.description}{visible}")


def _ingredients(job: Job) -> list[Ingredient]:
    from flashportrait.job.opening import TEMPLATE_SUFFIX
    from flashportrait.marking.credentials import Ingredient
    from flashportrait.media.clip import source_files

    if not job.ingredients:
        return []
    driver = "motion template" if job.driving.suffix.lower() == TEMPLATE_SUFFIX else "driving video"
    # Of pictures in a folder or pattern the first stands for all: a manifest of thousands is of no use.
    return [Ingredient.of(job.portrait, "portrait"), Ingredient.of(source_files(job.driving)[0], driver)]
