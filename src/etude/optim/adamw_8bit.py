"""AdamW whose moments take a byte for each number instead of four, by torchao."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from etude.extras import optional
from etude.optim.delegating import DelegatingOptimizer

SIGNED = {"exp_avg": True, "exp_avg_sq": False}
"""Moments of AdamW, and whether their numbers have a sign."""


class AdamW8bit(DelegatingOptimizer):
    """AdamW (Loshchilov and Hutter 2019) with moments in blocks of 8-bit numbers (Dettmers et al. 2022).

    A moment of at least 4,096 numbers that divide into blocks is kept as one byte for each number and a scale for each block;
    others, such as those of biases and gains, stay in the parameter's type. Updates are computed in float32.

    It is torchao's optimizer, over this one's groups and state. Rates are plain numbers here, as in any other optimizer, and
    `state_dict` has plain tensors, from which `load_state_dict` makes torchao's.

    torchao has torch.compile write a kernel for each shape of parameter at the first step, which takes seconds each.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        betas: Decay rates of the moments.
        eps: Added to the denominators.
        weight_decay: Decoupled weight decay.
        block_size: Numbers that share a scale.

    Raises:
        ConfigurationError: If torchao is not installed.
        ValueError: If a setting is out of its range, or, at the first update, parameters are sharded over ranks.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        block_size: int = 256,
    ) -> None:
        if block_size < 1:
            raise ValueError(f"block_size={block_size} is below 1")
        self._library = optional("torchao.optim", "optimizer=adamw_8bit", "torchao")
        self._block_size = block_size
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})
        self._share()

    def _share(self) -> None:
        self._part: Optimizer = self._library.AdamW8bit(
            [{**group, "amsgrad": False} for group in self.param_groups], block_size=self._block_size
        )
        self._part.state = self.state

    def _update(self) -> None:
        for own, group in zip(self.param_groups, self._part.param_groups, strict=True):
            if any(hasattr(parameter, "to_local") for parameter in own["params"]):
                raise ValueError("8-bit moments of weights that are sharded over ranks cannot be saved")
            group.update({name: own[name] for name in ("betas", "eps", "weight_decay")})
            group["lr"].fill_(own["lr"])  # a number would be compiled anew for every step
        self._part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state, in which a moment of 8-bit numbers is a dict of its `codes` and its `scale`."""
        whole = super().state_dict()
        whole["state"] = {
            parameter: {name: _plain(value) for name, value in state.items()}
            for parameter, state in whole["state"].items()
        }
        return whole

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        states = {
            parameter: {name: self._quantized(name, value) for name, value in state.items()}
            for parameter, state in state_dict["state"].items()
        }
        super().load_state_dict({**state_dict, "state": states})

    def _quantized(self, name: str, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        codes, scale = value["codes"], value["scale"]
        moment = self._library.subclass_8bit.OptimState8bit.zeros(
            codes.shape, SIGNED[name], codes.numel() // scale.numel(), codes.device
        )
        moment.codes.copy_(codes)
        moment.scale.copy_(scale)
        return moment


def _plain(value: Any) -> Any:
    return {"codes": value.codes, "scale": value.scale} if hasattr(value, "codes") else value
