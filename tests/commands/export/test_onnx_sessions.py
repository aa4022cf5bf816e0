"""Two tiny graphs decode as worked by hand: by steps and whole, with padding, and with rows in any order."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.commands.export.onnx_sessions import GraphCache, Sessions
from etude.commands.export.proof import MismatchError, Padded
from etude.errors import ConfigurationError

VOCABULARY, PAD = 5, 0
SOURCES = [[3, 1, 4], [2], [5, 6, 7, 8]]
INPUTS = torch.tensor([[1, 9], [1, 2], [1, 5]])


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, list[int]], path: Path) -> None:
    """Write a graph in which a letter is an axis of any size."""
    import onnx
    from onnx import helper, numpy_helper

    initial = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    kinds = {"i": onnx.TensorProto.INT64, "f": onnx.TensorProto.FLOAT, "b": onnx.TensorProto.BOOL}
    taken, returned = (
        [helper.make_tensor_value_info(name, kinds[kind], axes) for name, kind, axes in infos]
        for infos in (inputs, outputs)
    )
    body = helper.make_graph(
        [helper.make_node(*node, **more) for *node, more in nodes], "graph", taken, returned, initial
    )
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An encoder whose memory is the tokens, padding included, and a decoder that adds up the real ones and its own.

    The logits are that sum times 0, 1, 2, 3 and 4.
    """
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(
            package, reason=f"graphs are made and run by onnx and onnxruntime: {package} is not installed"
        )
    folder = tmp_path_factory.mktemp("graphs")
    encoder, decoder = folder / "encoder.onnx", folder / "decoder_step.onnx"
    graph(
        [
            ("Cast", ["tokens"], ["numbers"], {"to": 1}),
            ("Cast", ["mask"], ["unused"], {"to": 1}),
            ("Unsqueeze", ["numbers", "last"], ["memory"], {}),
        ],
        [("tokens", "i", ["B", "S"]), ("mask", "b", ["B", "S"])],
        [("memory", "f", ["B", "S", 1])],
        {"last": [2]},
        encoder,
    )
    graph(
        [
            ("Cast", ["tokens"], ["numbers"], {"to": 1}),
            ("Unsqueeze", ["numbers", "inner"], ["new"], {}),
            ("Concat", ["past", "new"], ["present"], {"axis": 1}),
            ("Cast", ["memory_mask"], ["weights"], {"to": 1}),
            ("Unsqueeze", ["weights", "two"], ["columns"], {}),
            ("Mul", ["memory", "columns"], ["real"], {}),
            ("ReduceSum", ["real", "one"], ["source"], {"keepdims": 0}),
            ("ReduceSum", ["present", "one"], ["target"], {"keepdims": 0}),
            ("Add", ["source", "target"], ["sum"], {}),
            ("Cast", ["factors"], ["row"], {"to": 1}),
            ("Mul", ["sum", "row"], ["logits"], {}),
        ],
        [
            ("tokens", "i", ["B"]),
            ("memory", "f", ["B", "S", 1]),
            ("memory_mask", "b", ["B", "S"]),
            ("past", "f", ["B", "P", 1]),
        ],
        [("logits", "f", ["B", VOCABULARY]), ("present", "f", ["B", "Q", 1])],
        {"inner": [1, 2], "two": [2], "one": [1], "factors": list(range(VOCABULARY))},
        decoder,
    )
    return encoder, decoder


@pytest.fixture(scope="module")
def sessions(files: tuple[Path, Path]) -> Sessions:
    return Sessions.load(*files)


def by_hand(sources: list[list[int]], inputs: torch.Tensor) -> torch.Tensor:
    sums = torch.tensor([sum(source) for source in sources])[:, None] + inputs.cumsum(1)
    return (sums[:, :, None] * torch.arange(VOCABULARY)).float()


# The state of each row


@given(rows=st.lists(st.integers(0, 2), max_size=5))
def test_rows_are_those_asked_for_in_their_order(rows: list[int]) -> None:
    memory, past = np.arange(3 * 4 * 2).reshape(3, 4, 2), np.arange(3 * 5 * 2).reshape(3, 5, 2)
    mask = np.array([[True] * 4, [True, False, False, False], [True, True, True, False]])
    chosen = GraphCache(memory, mask, past).select(torch.tensor(rows, dtype=torch.long))
    for found, whole in ((chosen.memory, memory), (chosen.mask, mask), (chosen.past, past)):
        assert found.shape == (len(rows), *whole.shape[1:])
        assert all(np.array_equal(one, whole[row]) for one, row in zip(found, rows, strict=True))


# Decoding


def test_logits_by_hand_and_position_by_position(sessions: Sessions) -> None:
    logits = sessions.logits(Padded(SOURCES, PAD), INPUTS)
    assert logits.shape == (3, 2, VOCABULARY)
    assert logits[:, :, 1].tolist() == [[9, 18], [3, 5], [27, 32]]
    assert torch.equal(logits, by_hand(SOURCES, INPUTS))


def test_decoding_begins_with_nothing_but_the_source(sessions: Sessions) -> None:
    source = Padded(SOURCES, PAD)
    cache = sessions.start(source)
    assert cache.memory[:, :, 0].tolist() == source.tokens.tolist()
    assert np.array_equal(cache.mask, source.mask.numpy())
    assert cache.past.shape == (3, 0, 1) and cache.past.dtype == np.float32


def test_a_step_extends_the_past_and_leaves_the_cache_before_it(sessions: Sessions) -> None:
    start = sessions.start(Padded(SOURCES, PAD))
    _, first = sessions.step(INPUTS[:, 0], start)
    logits, second = sessions.step(INPUTS[:, 1], first)
    assert [len(cache.past[0]) for cache in (start, first, second)] == [0, 1, 2]
    assert second.past[:, :, 0].tolist() == INPUTS.tolist()
    assert second.memory is start.memory and second.mask is start.mask
    again, _ = sessions.step(INPUTS[:, 1], first)
    assert torch.equal(logits, again)


@given(
    sources=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=5),
    width=st.integers(1, 4),
    draw=st.data(),
)
def test_a_row_does_not_depend_on_its_neighbours(
    sessions: Sessions, sources: list[list[int]], width: int, draw: st.DataObject
) -> None:
    """Whatever stands at padding, and whichever rows go on after a step."""
    inputs = torch.randint(1, 50, (len(sources), width), generator=torch.Generator().manual_seed(width))
    assert torch.equal(sessions.logits(Padded(sources, 77), inputs), by_hand(sources, inputs))
    rows = draw.draw(st.lists(st.integers(0, len(sources) - 1), min_size=1, max_size=6))
    _, cache = sessions.step(inputs[:, 0], sessions.start(Padded(sources, PAD)))
    next_tokens = torch.arange(1, len(rows) + 1)
    logits, _ = sessions.step(next_tokens, cache.select(torch.tensor(rows)))
    both = torch.stack([inputs[rows, 0], next_tokens], dim=1)
    assert torch.equal(logits, by_hand([sources[row] for row in rows], both)[:, 1])


# Loading


def test_the_runtime_has_as_many_threads_as_torch(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    loaded = Sessions.load(*files)
    for session in (loaded.encoder, loaded.decoder):
        assert session.get_session_options().intra_op_num_threads == 3
        assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("content", [None, b"", b"no graph"])
def test_graphs_that_cannot_be_loaded_are_one_line(
    files: tuple[Path, Path], tmp_path: Path, broken: int, content: bytes | None
) -> None:
    paths = [*files]
    paths[broken] = tmp_path / "other.onnx"
    if content is not None:
        paths[broken].write_bytes(content)
    with pytest.raises(MismatchError) as caught:
        Sessions.load(*paths)
    assert re.fullmatch(r"ONNX Runtime cannot load the graphs: [^\n]+", str(caught.value))
    assert "other.onnx" in str(caught.value) or content == b""


def test_a_missing_runtime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ConfigurationError, match=r"^to=onnx needs onnxruntime: pip install 'etude\[export\]'"):
        Sessions.load(tmp_path / "encoder.onnx", tmp_path / "decoder_step.onnx")
