"""Policies for losses and gradients that are not finite: stop the run, or leave the step out.

The configuration chooses: `non_finite=stop` or `non_finite=skip`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed
from jaxtyping import Float
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.distributed.tensor import DTensor

from etude.errors import ConfigurationError, NonFiniteError

NEVER = 2**62
SHOWN_EXAMPLES = 8
_log = logging.getLogger(__name__)


class NonFiniteEvent(NamedTuple):
    """A step whose loss or gradient is not finite.

    Attributes:
        step: Number of the step, from 1.
        loss_sum: Sum of its losses, over all ranks.
        gradient_norm: Norm of its gradient; nan if unknown.
    """

    step: int
    loss_sum: float
    gradient_norm: float

    def __str__(self) -> str:
        return f"the sum of losses is {self.loss_sum}, the gradient's norm {self.gradient_norm}"


class NonFinitePolicy:
    """Remembers losses and gradient norms on the device until they are checked, by all ranks together."""

    def __init__(self) -> None:
        self._losses: list[tuple[int, Tensor]] = []
        self._norms: list[tuple[int, Tensor]] = []
        self._device = torch.device("cpu")
        self._examples_of: Callable[[int], list[int]] = lambda step: []
        self._folder: Path | None = None

    def begin(
        self, device: torch.device, examples_of: Callable[[int], list[int]], folder: Path | None, *, scaled: bool
    ) -> None:
        """Begin a training.

        Args:
            device: Device of the losses.
            examples_of: Returns the training examples of a step, counted from 1.
            folder: Folder of the run, for messages; None: it is not a run.
            scaled: Whether a gradient scaler (`16-mixed`) leaves out steps by itself.
        """
        self._device, self._examples_of, self._folder = device, examples_of, folder

    def record_loss(self, step: int, loss_sum: Float[Tensor, ""]) -> None:
        """Remember the loss of a micro-batch."""
        self._losses.append((step, loss_sum.detach()))

    def record_norm(self, step: int, gradient_norm: Float[Tensor, ""]) -> None:
        """Remember the norm of a step's gradient."""
        self._norms.append((step, gradient_norm.detach()))

    def skips_step(self) -> bool:
        """Return whether the last step must be left out; called once per step, before the optimizer's update."""
        return False

    def values(self) -> dict[str, float]:
        """Return what the policy adds to a line of the record."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint holds."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def first_non_finite(self) -> NonFiniteEvent | None:
        """Return the first non-finite step since the last call, on whichever rank. Waits for the device."""
        losses, norms = _read(self._losses), _read(self._norms)
        self._losses, self._norms = [], []
        first = min((step for step, value in [*losses, *norms] if not abs(value) < float("inf")), default=NEVER)
        first = int(_over_ranks(first, torch.int64, self._device, torch.distributed.ReduceOp.MIN))
        if first == NEVER:
            return None
        loss_sum = sum(value for step, value in losses if step == first)
        total = _over_ranks(loss_sum, torch.float64, self._device, torch.distributed.ReduceOp.SUM)
        return NonFiniteEvent(
            first, float(total), next((value for step, value in norms if step == first), float("nan"))
        )

    def check(self) -> None:
        """Stop if a step since the last check was not finite.

        Raises:
            NonFiniteError: With the step, its examples and what to do.
        """
        event = self.first_non_finite()
        if event is not None:
            self.stop(event.step, str(event))

    def check_weights(self, step: int, weights: Iterable[Tensor]) -> None:
        """Stop if a step left weights that must not be saved.

        Raises:
            NonFiniteError: If any weight is not finite.
        """
        # Of sharded weights, each rank sees its own.
        if not _over_ranks(all_finite(weights), torch.int64, self._device, torch.distributed.ReduceOp.MIN):
            self.stop(step, "its update left weights that are not finite")

    def stop(self, step: int, what: str) -> None:
        """End the run at a step.

        Raises:
            NonFiniteError: Always.
        """
        raise NonFiniteError(
            f"step {step}: {what}; {self._where(step)}; "
            "a lower optimizer.lr or a longer scheduler.warmup may help; the checkpoints before it are kept"
        )

    def _where(self, step: int) -> str:
        """Return the examples of a step, and the command that looks closer at them."""
        ids = self._examples_of(step)
        more = f" and {len(ids) - SHOWN_EXAMPLES} more" if len(ids) > SHOWN_EXAMPLES else ""
        listed = (", ".join(map(str, ids[:SHOWN_EXAMPLES])) or "not known") + more
        replay = "" if self._folder is None else f"; look closer with: etude replay {self._folder} step={step}"
        return f"its training examples: {listed}{replay}"


class StopOnNonFinite(NonFinitePolicy):
    """Ends the run.

    Nothing is read from the device at each step: a non-finite one is found at the next line of the record, or save.
    """


class SkipNonFinite(NonFinitePolicy):
    """Leaves a non-finite step out: weights, optimizer state and mean loss are as if it had not been computed.

    It counts as a step: plan and schedule go on. Whether to take a step must be known before it is taken, so the host
    waits for the device once per step, unlike with `StopOnNonFinite`; several processes also exchange a number.

    Attributes:
        skipped: Number of steps left out so far in the whole run, over interruptions.

    Args:
        limit: Largest number of steps to leave out in the whole run; one more stops it.

    Raises:
        ConfigurationError: If the limit is below 1; when training starts, if a gradient scaler leaves out steps too.
    """

    def __init__(self, limit: int = 10) -> None:
        super().__init__()
        if limit < 1:
            raise ConfigurationError(
                f"non_finite.limit={limit} leaves out nothing; write at least 1, or non_finite=stop"
            )
        self.limit = limit
        self.skipped = 0

    def begin(
        self, device: torch.device, examples_of: Callable[[int], list[int]], folder: Path | None, *, scaled: bool
    ) -> None:
        """Begin a training."""
        if scaled:
            raise ConfigurationError(
                "non_finite=skip does not go with precision=16-mixed, whose gradient scaler leaves out steps "
                "by its own count; write precision=bf16-mixed, or non_finite=stop"
            )
        super().begin(device, examples_of, folder, scaled=scaled)

    def skips_step(self) -> bool:
        """Return whether the last step is not finite, and warn of it, once for all ranks.

        Raises:
            NonFiniteError: If the limit is exceeded.
        """
        event = self.first_non_finite()
        if event is None:
            return False
        if self.skipped == self.limit:
            self.stop(event.step, f"{event}, after {self.skipped} steps were left out (non_finite.limit={self.limit})")
        self.skipped += 1
        _warn(
            f"step {event.step} is left out, {self.skipped} of at most {self.limit}: {event}; {self._where(event.step)}"
        )
        return True

    def values(self) -> dict[str, float]:
        """Return the number of steps left out so far."""
        return {"train/skipped_steps": self.skipped}

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps left out so far."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; a checkpoint of a run with another policy has nothing."""
        self.skipped = state.get("skipped", 0)


@rank_zero_only
def _warn(text: str) -> None:
    _log.warning("%s", text)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether every number in the tensors is finite; of sharded ones, in this rank's slices."""
    own = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return bool(torch.stack([tensor.detach().isfinite().all() for tensor in own]).all())


def _read(seen: list[tuple[int, Tensor]]) -> list[tuple[int, float]]:
    if not seen:
        return []
    values = torch.stack([value.double() for _, value in seen]).tolist()
    return [(step, value) for (step, _), value in zip(seen, values, strict=True)]


def _over_ranks(
    value: float, dtype: torch.dtype, device: torch.device, reduction: torch.distributed.ReduceOp.RedOpType
) -> Tensor:
    tensor = torch.tensor(value, dtype=dtype, device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor, reduction)
    return tensor
