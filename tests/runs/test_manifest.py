from __future__ import annotations

import json
import platform

import pytest
import torch
from torch import nn

from etude.runs.code_state import PACKAGES
from etude.runs.manifest import manifest, parameters, weights_hash


def a_manifest() -> dict[str, object]:
    return manifest(
        seed=7,
        data_fingerprint="ab12",
        module=nn.Linear(3, 5),
        command=["etude", "train", "logger.api_key=s3cret", "seed=7"],
        precision="32-true",
        trust=["json", "no_such_package"],
    )


def test_it_says_what_a_run_is_made_of() -> None:
    made = a_manifest()
    assert json.loads(json.dumps(made)) == made
    assert made["seed"] == 7
    assert made["data"] == {"fingerprint": "ab12"}
    assert made["command"] == ["etude", "train", "seed=7"]
    assert made["parameters"] == {"total": 20, "trainable": 20}
    assert made["python"] == platform.python_version()
    packages, settings, processor = made["packages"], made["torch"], made["processor"]
    assert isinstance(packages, dict)
    assert isinstance(settings, dict)
    assert isinstance(processor, dict)
    assert set(packages) == set(PACKAGES)
    assert packages["torch"].startswith(torch.__version__.split("+")[0])
    assert settings["deterministic"] is torch.are_deterministic_algorithms_enabled()
    assert processor["threads"] == torch.get_num_threads()
    assert processor["name"]
    assert made["precision"] == "32-true"


def test_only_variables_that_choose_kernels_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    made = a_manifest()
    assert isinstance(made["environment"], dict)
    assert made["environment"]["MKL_CBWR"] == "AVX2"
    assert "s3cret" not in json.dumps(made)


def test_the_hash_of_weights_knows_every_bit_and_the_shape() -> None:
    layer = nn.Linear(3, 2)
    before = weights_hash(layer)
    assert weights_hash(layer) == before
    with torch.no_grad():
        layer.bias[0] += 1e-3
    after = weights_hash(layer)
    layer.weight = nn.Parameter(layer.weight.detach().reshape(3, 2))
    assert len({before, after, weights_hash(layer)}) == 3


def test_tied_and_frozen_parameters() -> None:
    layers = nn.Sequential(nn.Embedding(11, 5), nn.Linear(5, 11, bias=False), nn.Linear(2, 3))
    layers[1].weight = layers[0].weight
    layers[2].weight.requires_grad_(False)
    assert parameters(layers) == {"total": 55 + 6 + 3, "trainable": 55 + 3}


# The state of the code
