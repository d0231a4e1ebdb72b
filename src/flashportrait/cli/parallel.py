"""Commands that several processes may share: ``--gpus N``, or started so by torchrun."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from flashportrait.errors import UserError
from flashportrait.job import ModelCache


def add_gpus_option(parser: argparse.ArgumentParser) -> None:
    """``--gpus``."""
    parser.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="share the work among N GPUs of this machine, a process each (with --device cpu: N processes); "
        "for several machines start the command with torchrun",
    )


def with_processes(args: argparse.Namespace, device: str | None, work: Callable[[ModelCache | None], int]) -> int:
    """Do ``work(models)`` alone, or start and lead as many processes as were asked for.

    Args:
        args: with ``gpus`` and ``argv``.
        device: where the command computes, if that was said.
        work: the command; ``models`` is None when alone.

    Raises:
        UserError: what the command refuses, or a process is gone.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if args.gpus is not None and args.gpus < 1:
        raise UserError(f"--gpus is {args.gpus}: give 1 or more")
    if started == 1 and (args.gpus or 1) > 1:
        from flashportrait.distributed.launch import launch

        _check_gpus(args.gpus, device)
        return launch(args.gpus, args.argv)
    if started == 1:
        return work(None)
    from flashportrait.distributed.ranks import Gone, joined
    from flashportrait.job.models import follow

    with joined() as ranks:
        assert ranks is not None, "there are several processes"
        if ranks.leads:
            with ModelCache(ranks=ranks) as models:
                return work(models)
        try:
            follow(ranks)
        except (Gone, KeyboardInterrupt):
            return 1  # the leader has said why, or the launcher will
        return 0


def _check_gpus(wanted: int, device: str | None) -> None:
    """Refuse more processes than GPUs before any is started."""
    if device == "cpu":
        return
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there < wanted:
        raise UserError(f"--gpus is {wanted}, but this machine has {there}: see `flashportrait doctor`")
