"""Muon for the matrices of a model's layers, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from etude.optim.delegating import DelegatingOptimizer


class Muon(DelegatingOptimizer):
    """Muon (Jordan et al. 2024) where it is made for, and AdamW (Loshchilov and Hutter 2019) elsewhere.

    Muon replaces the momentum of a matrix by the nearest matrix whose singular values are all about 1, which a few
    Newton-Schulz iterations find. It is for linear maps between hidden states: embeddings, the matrix of the logits, biases
    and gains are AdamW's. Its updates are scaled to the root mean square that those of AdamW have (Liu et al. 2025,
    "Muon is scalable for LLM training", equation 4), so that one rate and one weight decay serve both.

    It is made of torch's two optimizers, which share its groups and its state.

    Args:
        params: Groups; those with `hidden=True` hold nothing but matrices, and are Muon's.
        lr: Learning rate of both.
        betas: Decay rates of AdamW's moments.
        eps: Added to AdamW's denominators.
        weight_decay: Decoupled weight decay of both.
        momentum: Decay rate of Muon's momentum, with Nesterov's correction.
        ns_steps: Newton-Schulz iterations.
        fused: Whether AdamW uses torch's fused kernel.
        hidden: Whether a group that does not say is Muon's.

    Raises:
        ValueError: If a setting is out of its range, or a group for Muon has a parameter that is no matrix.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        ns_steps: int = 5,
        fused: bool | None = None,
        hidden: bool = False,
    ) -> None:
        self._settings: dict[bool, dict[str, Any]] = {
            True: {"momentum": momentum, "ns_steps": ns_steps, "adjust_lr_fn": "match_rms_adamw"},
            False: {"betas": tuple(betas), "eps": eps, "fused": fused},
        }
        defaults = {"lr": lr, "weight_decay": weight_decay, "eps": eps, "hidden": hidden}
        super().__init__(params, defaults)
        self._share()

    def _share(self) -> None:
        kinds = {True: torch.optim.Muon, False: AdamW}
        self._parts: list[Optimizer] = []
        for hidden, kind in kinds.items():
            groups = [group for group in self.param_groups if group["hidden"] is hidden]
            if groups:
                # Each group has its settings after the first time, among them those of a stored state.
                part = kind(groups, **self._settings[hidden])
                part.param_groups, part.state = groups, self.state
                self._parts.append(part)

    def _update(self) -> None:
        for part in self._parts:
            part.step()
