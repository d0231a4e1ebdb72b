"""Processes that run jobs one after another, for those who serve others: a model loaded once, a crash survived."""

from flashportrait.workers.jobs import Ended, WorkerProcess
from flashportrait.workers.process import Died, Supervised, why_it_ended
from flashportrait.workers.running import WholeRun, run_when_free

__all__ = ["Died", "Ended", "Supervised", "WholeRun", "WorkerProcess", "run_when_free", "why_it_ended"]
