"""Looks at a stranger's files in a confined process before anything else touches them."""

from flashportrait.intake.inspection import Face, Inspection, inspect
from flashportrait.intake.limits import Limits

__all__ = ["Face", "Inspection", "Limits", "inspect"]
