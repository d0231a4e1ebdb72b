"""An animation as one value, and what runs it: all that command line, studio, service and batch know of the flow."""

from __future__ import annotations

from flashportrait.job.convert import convert
from flashportrait.job.fields import Setting
from flashportrait.job.job import MODELS, Job, JobError, read_settings
from flashportrait.job.live import LivePortrait
from flashportrait.job.models import ModelCache
from flashportrait.job.opening import check, motion_key
from flashportrait.job.progress import Cancelled, Flag, Progress
from flashportrait.job.running import Helper, MotionCache, evaluate, resume, run, stored_device
from flashportrait.job.summary import Summary
from flashportrait.media.lock import InUse

__all__ = [
    "MODELS",
    "Cancelled",
    "Flag",
    "Helper",
    "InUse",
    "Job",
    "JobError",
    "LivePortrait",
    "ModelCache",
    "MotionCache",
    "Progress",
    "Setting",
    "Summary",
    "check",
    "convert",
    "evaluate",
    "motion_key",
    "read_settings",
    "resume",
    "run",
    "stored_device",
]
