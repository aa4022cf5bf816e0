"""Norms of layers: those of the parameters by hand, logged at the steps that are due, whatever the micro-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from etude.training.callbacks.layer_norms import LayerNorms, layer_of


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.encoder.3.attention.query.weight", "encoder.3"),
        ("model.embedding.weight", "embedding"),
        ("head.bias", "head"),
        ("model.transformer.h.11.mlp.c_fc.weight", "transformer.h.11"),
    ],
)
def test_a_layer_is_named_up_to_its_number(name: str, layer: str) -> None:
    assert layer_of(name) == layer


class Kept(Logger):
    name, version = "kept", ""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


class Small(pl.LightningModule):
    def __init__(self, rates: tuple[float, float] = (0.1, 0.1)) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.rates = rates
        self.weights: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []

    def training_step(self, batch: Any, index: int) -> Tensor:
        output: Tensor = self.layers[1](torch.relu(self.layers[0](batch[0])))
        return output.square().mean()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.weights.append({name: weight.detach().clone() for name, weight in self.named_parameters()})
        self.gradients.append(
            {n: weight.grad.clone() for n, weight in self.named_parameters() if weight.grad is not None}
        )

    def configure_optimizers(self) -> Any:
        pairs = zip(self.layers, self.rates, strict=True)
        groups = [{"params": layer.parameters(), "lr": rate} for layer, rate in pairs]
        return torch.optim.SGD(groups)


def fitted(folder: Path, module: Small, micro_batches: int = 1) -> list[tuple[int | None, dict[str, float]]]:
    kept = Kept()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=5,
        logger=[kept],
        callbacks=[LayerNorms(2)],
        accumulate_grad_batches=micro_batches,
        gradient_clip_val=0.01,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(torch.randn(40, 3)), batch_size=4))
    return [(step, row) for step, row in kept.rows if any("_norm/" in name for name in row)]


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_norms_are_those_of_the_tensors_before_clipping(tmp_path: Path, micro_batches: int) -> None:
    module = Small()
    rows = fitted(tmp_path, module, micro_batches)
    assert [step for step, _ in rows] == [2, 4]
    for step, row in rows:
        assert step is not None
        before, after, gradients = module.weights[step - 1], module.weights[step], module.gradients[step - 1]
        for layer in ("layers.0", "layers.1"):
            names = [name for name in before if name.startswith(f"{layer}.")]
            norms = {
                "gradient": torch.cat([gradients[name].flatten() for name in names]).norm(),
                "weight": torch.cat([after[name].flatten() for name in names]).norm(),
                "update": torch.cat([(after[name] - before[name]).flatten() for name in names]).norm(),
            }
            for kind, norm in norms.items():
                assert row[f"train/{kind}_norm/{layer}"] == pytest.approx(float(norm), rel=1e-5)
    assert not any("learning_rate" in name for _, row in rows for name in row)


def test_layers_with_their_own_rates_have_them_logged(tmp_path: Path) -> None:
    _, row = fitted(tmp_path, Small((0.1, 0.02)))[0]
    assert row["train/learning_rate/layers.0"] == 0.1
    assert row["train/learning_rate/layers.1"] == 0.02
