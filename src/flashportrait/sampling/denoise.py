"""From noise to latents, window by window, in one of three orders of work.

``synchronous``: every window takes step s before any takes step s + 1 (the paper's order). Everything is finished last.
``diagonal``: the same arithmetic, so the same numbers to the bit, but each window runs as far ahead as its neighbours
    allow: the first is finished after about ``steps`` windows have started, and no more than those are held.
``causal``: a window runs all its steps, led in its overlap by what its left neighbour had at the same step. Memory is
    constant and the first frames come after one window, but the numbers differ from the other two orders.

All give latent frames in order, as soon as they are final, and can be continued after every round of work. Nothing here
knows the model: ``velocity`` is a callable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.sampling.noise import Noise
from flashportrait.sampling.solver import Solver, Step, steps_of
from flashportrait.sampling.windows import Window, WindowPlan

Order = Literal["synchronous", "diagonal", "causal"]
ORDERS: tuple[Order, ...] = ("synchronous", "diagonal", "causal")
SYNCHRONOUS_LIMIT_BYTES = 4 * 2**30
"""Most that the synchronous order may hold: it keeps every window until the last step."""

Velocity = Callable[[Tensor, Step, Window], Tensor]
"""``velocity(latents [b c f h w], step, window) -> [b c f h w]``, called once for each window and step."""

Finished = list[tuple[Window, Tensor]]
"""Windows, each with its owned latent frames, final, [b c owned h w]."""

Prepare = Callable[[list[tuple[Tensor, Step, Window]]], None]
"""Told of velocities that are about to be asked for, none of which depends on another: they may be computed at once."""

OnStep = Callable[[Window, Step, Tensor], Tensor]
"""Called with the latents that a window's step has just moved; what it returns takes their place."""


class Denoiser(Protocol):
    """What the three orders have in common."""

    def run(self) -> Iterator[Finished]:
        """Yield, after each round of work, the windows that it finished, in order; none after most rounds.

        A round is a step of all windows (synchronous), a diagonal, or all steps of a window, or of a few (causal).
        """
        ...

    def steps_taken(self) -> list[int]:
        """How many windows have taken each step, as of the last round that ``run`` yielded."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All that is needed to continue after the last round that ``run`` yielded, as named tensors."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from ``state``: ``run`` then yields what had not been yielded when it was taken."""
        ...


def check_memory(order: Order, plan: WindowPlan, frame_bytes: int, kept: int) -> None:
    """That the synchronous order fits into memory; the others hold a few windows, whatever the clip's length.

    Args:
        frame_bytes: size of one latent frame.
        kept: velocities that the predictor keeps of a window.

    Raises:
        UserError: it would hold more than ``SYNCHRONOUS_LIMIT_BYTES``.
    """
    held = frame_bytes * (plan.latent_frames + kept * sum(len(window) for window in plan))
    if order == "synchronous" and held > SYNCHRONOUS_LIMIT_BYTES:
        raise UserError(
            f"the synchronous order would hold {held / 2**30:.1f} GiB for the {len(plan)} windows of this clip, "
            f"more than {SYNCHRONOUS_LIMIT_BYTES / 2**30:g} GiB; use the diagonal order, whose frames are the same"
        )


def denoiser(
    order: Order,
    velocity: Velocity,
    scheduler: Any,
    plan: WindowPlan,
    noise: Noise,
    *,
    on_step: OnStep | None = None,
    prepare: Prepare | None = None,
    breadth: int = 1,
) -> Denoiser:
    """A denoiser in the given order.

    Args:
        order: ``synchronous``, ``diagonal`` or ``causal``.
        velocity: the guided, possibly predicted, velocity of a window.
        scheduler: a diffusers flow scheduler on which ``set_timesteps`` was called; copied, never changed.
        plan: the windows.
        noise: where each latent frame starts.
        on_step: sees, and may change, the latents after each step of each window.
        prepare: told of each round's velocities before they are asked for; rounds are then such that they don't depend
            on each other (with the diagonal order, twice as many windows are in flight). The numbers are the same.
        breadth: windows that take each step together in the causal order; as many are finished at a time.

    Raises:
        UserError: for an unknown order or a scheduler that windows can't share.
    """
    if order == "causal":
        together = prepare if breadth > 1 else None
        return CausalDenoiser(velocity, scheduler, plan, noise, on_step=on_step, prepare=together, breadth=breadth)
    if order in ("synchronous", "diagonal"):
        return JointDenoiser(velocity, scheduler, plan, noise, order=order, on_step=on_step, prepare=prepare)
    raise UserError(f"the order of work is {order!r}; choose one of {', '.join(ORDERS)}")


Pairs = list[tuple[int, int]]
"""Windows and steps: a round of work."""


def synchronous_rounds(plan: WindowPlan, steps: int, taken: Sequence[int] | None = None) -> Iterator[Pairs]:
    """(window, step) pairs, a round for each step: all windows at step 0, all at step 1, ...

    Args:
        plan: the windows.
        steps: of each.
        taken: to begin in the middle: how many windows have taken each step.
    """
    for step in range(steps):
        if pairs := [(window, step) for window in range(taken[step] if taken else 0, len(plan))]:
            yield pairs


def diagonal_rounds(
    plan: WindowPlan, steps: int, taken: Sequence[int] | None = None, *, independent: bool = False
) -> Iterator[Pairs]:
    """(window, step) pairs: each round, one more window takes each step, if what it needs is there.

    A window may take step s once every window that shares a frame with it has taken step s - 1. Where windows share
    with the next one only, round k is window k at step 0, k - 1 at step 1, k - 2 at step 2, ...: a diagonal.

    Args:
        plan: the windows.
        steps: of each.
        taken: to begin in the middle: how many windows have taken each step.
        independent: what is needed must be there when the round begins, so that no pair waits for another: round k is
            then window k at step 0, k - 2 at step 1, k - 4 at step 2, ...
    """
    due = list(taken) if taken else [0] * steps  # the window that is next to take each step
    while due[-1] < len(plan):
        pairs = []
        there = list(due) if independent else due
        for step in range(steps):
            ready = len(plan) if step == 0 else there[step - 1]
            if due[step] < len(plan) and plan.last_reader(due[step]) < ready:
                pairs.append((due[step], step))
                due[step] += 1
        yield pairs


class JointDenoiser:
    """All windows share one latent video: each step blends their velocities, then moves the latents once.

    The video is held as one stretch per window, the frames which that window owns. A stretch can move on as soon as
    its own window has taken the step, since that is the last one to see it; what this window says of later stretches
    waits in ``_carried`` for the next window. Blending velocities and stepping once is right for every solver, and
    for Euler's it equals blending stepped latents. As in the released code, the first step isn't blended: there the
    later window's velocity replaces the earlier one's.
    """

    def __init__(
        self,
        velocity: Velocity,
        scheduler: Any,
        plan: WindowPlan,
        noise: Noise,
        *,
        order: Literal["synchronous", "diagonal"] = "synchronous",
        on_step: OnStep | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        self._velocity, self._scheduler, self._plan, self._noise = velocity, scheduler, plan, noise
        self._order, self._on_step, self._prepare = order, on_step, prepare
        self._steps = steps_of(scheduler)
        self._stretches: dict[int, Solver] = {}
        self._carried: dict[int, Tensor] = {}
        self._taken = [0] * len(self._steps)

    def run(self) -> Iterator[Finished]:
        """Yield, after each round of work, the windows that it finished, in order."""
        for pairs in self._rounds():
            finished = []
            if self._prepare is not None:
                asked = [(self._plan[index], self._steps[step]) for index, step in pairs]
                self._prepare([(self._read(window, step), step, window) for window, step in asked])
            for index, step in pairs:
                self._advance(self._plan[index], self._steps[step])
                self._taken[step] = index + 1
                if step == len(self._steps) - 1:
                    finished.append((self._plan[index], self._stretches.pop(index).latents))
            yield finished

    def _rounds(self) -> Iterator[Pairs]:
        """What is left to do."""
        if self._order == "synchronous":
            return synchronous_rounds(self._plan, len(self._steps), self._taken)
        independent = self._prepare is not None
        return diagonal_rounds(self._plan, len(self._steps), self._taken, independent=independent)

    def _advance(self, window: Window, step: Step) -> None:
        velocity = self._velocity(self._read(window, step), step, window)
        carried = self._carried.pop(step.index, None)
        if carried is not None and step.index > 0:
            velocity = blend_start(velocity, carried, window)
        if window.owned < len(window):
            self._carried[step.index] = velocity[:, :, window.owned :].clone()
        stretch = self._stretches[window.index]
        stretch.step(velocity[:, :, : window.owned], step)
        if self._on_step is not None:
            stretch.latents = self._on_step(window, step, stretch.latents)

    def _read(self, window: Window, step: Step) -> Tensor:
        """The window's latents before ``step``; stretches not yet started are noise."""
        parts = []
        for index in range(window.index, self._plan.last_reader(window.index) + 1):
            if index not in self._stretches:
                owner = self._plan[index]
                self._stretches[index] = Solver(self._scheduler, self._noise(owner.start, owner.owned_stop))
            assert self._stretches[index].steps_done == step.index
            parts.append(self._stretches[index].latents)
        return torch.cat(parts, dim=2)[:, :, : len(window)]

    def steps_taken(self) -> list[int]:
        """How many windows have taken each step."""
        return list(self._taken)

    def state_dict(self) -> dict[str, Tensor]:
        """All that is needed to continue after the last round that ``run`` yielded, as named tensors."""
        state = {"taken": torch.tensor(self._taken)}
        state.update({f"carried.{step}": velocity for step, velocity in self._carried.items()})
        for index, stretch in self._stretches.items():
            state.update({f"stretch.{index}.{name}": value for name, value in stretch.state_dict().items()})
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from ``state``: ``run`` then yields what had not been yielded when it was taken."""
        device = self._noise(0, 1).device
        self._taken = state["taken"].tolist()
        self._carried = {
            int(name.split(".")[1]): value.to(device) for name, value in state.items() if name.startswith("carried.")
        }
        self._stretches = {}
        for index in sorted({int(name.split(".")[1]) for name in state if name.startswith("stretch.")}):
            owner, prefix = self._plan[index], f"stretch.{index}."
            self._stretches[index] = Solver(self._scheduler, self._noise(owner.start, owner.owned_stop))
            own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            self._stretches[index].load_state_dict(own)


class CausalDenoiser:
    """Windows one after another, each led in its overlap by the one before it.

    What is kept of a window is a small band: the velocity it had at each step on the frames shared with the next
    (``_band``). Both start from the same noise, so where the left neighbour weighs 1 its trajectory is repeated.
    Blending velocities crossfades the trajectories; blending latents at every step would compound the weights, so that
    the left neighbour's reached to the end of the overlap and broke off there.
    """

    def __init__(
        self,
        velocity: Velocity,
        scheduler: Any,
        plan: WindowPlan,
        noise: Noise,
        *,
        on_step: OnStep | None = None,
        prepare: Prepare | None = None,
        breadth: int = 1,
    ) -> None:
        self._velocity, self._scheduler, self._plan, self._noise = velocity, scheduler, plan, noise
        self._on_step, self._prepare, self._breadth = on_step, prepare, breadth
        self._steps = steps_of(scheduler)
        self._band: list[Tensor] = []
        self._windows_done = 0

    def run(self) -> Iterator[Finished]:
        """Yield, after each round of work, the windows that it finished, in order."""
        while self._windows_done < len(self._plan):
            stop = min(self._windows_done + self._breadth, len(self._plan))
            windows = [self._plan[index] for index in range(self._windows_done, stop)]
            latents = self._run_windows(windows)
            self._windows_done = stop
            yield [(window, own[:, :, : window.owned]) for window, own in zip(windows, latents, strict=True)]

    def _run_windows(self, windows: list[Window]) -> list[Tensor]:
        """Latents of neighbouring windows, all of which take a step before any takes the next.

        Of its left neighbour a window needs the velocity at the same step, not the result, so they can.
        """
        solvers = [Solver(self._scheduler, self._noise(window.start, window.stop)) for window in windows]
        for step in self._steps:
            if self._prepare is not None:
                latents = [solver.latents for solver in solvers]
                self._prepare([(own, step, window) for own, window in zip(latents, windows, strict=True)])
            for window, solver in zip(windows, solvers, strict=True):
                velocity = self._velocity(solver.latents, step, window)
                if window.overlap:
                    velocity = blend_start(velocity, self._band[step.index], window, smooth=True)
                self._band[step.index : step.index + 1] = [velocity[:, :, window.owned :].clone()]
                solver.step(velocity, step)
                if self._on_step is not None:
                    solver.latents = self._on_step(window, step, solver.latents)
        return [solver.latents for solver in solvers]

    def steps_taken(self) -> list[int]:
        """How many windows have taken each step."""
        return [self._windows_done] * len(self._steps)

    def state_dict(self) -> dict[str, Tensor]:
        """All that is needed to continue after the last round that ``run`` yielded, as named tensors."""
        return {"windows_done": torch.tensor(self._windows_done), "band": torch.stack(self._band)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from ``state``: ``run`` then yields what had not been yielded when it was taken."""
        self._windows_done = int(state["windows_done"])
        self._band = list(state["band"].to(self._noise(0, 1).device).unbind())


def blend_start(current: Tensor, previous: Tensor, window: Window, smooth: bool = False) -> Tensor:
    """``current`` [b c f h w] with its first ``window.overlap`` frames blended with ``previous`` [b c overlap h w]."""
    weights = window.blend_weights(smooth).to(current).view(1, 1, -1, 1, 1)
    shared = weights * current[:, :, : window.overlap] + (1 - weights) * previous
    return torch.cat([shared, current[:, :, window.overlap :]], dim=2)
