"""Processes that run jobs one after another, for those who serve others: a model loaded once, a crash survived."""

from flashportrait.workers.jobs import Ended, WorkerProcess
from flashportrait.workers.process import Died, Supervised, why_it_ended

__all__ = ["Died", "Ended", "Supervised", "WorkerProcess", "why_it_ended"]
