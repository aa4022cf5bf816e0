"""The manifest of a run: its code, packages, machine and data, recorded at the start and compared on reproduction."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from etude.config.values import public_arguments
from etude.runs.code_state import code, packages, sources

ENVIRONMENT = (
    "OMP_NUM_THREADS",
    "OMP_SCHEDULE",
    "MKL_NUM_THREADS",
    "MKL_DYNAMIC",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "PYTHONHASHSEED",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "NCCL_ALGO",
    "NCCL_PROTO",
)
"""Environment variables that select kernels or their order of summation. Others may hold secrets and are not recorded."""

_CODE = Path(__file__).resolve().parents[1]
_VECTOR_FLAG = re.compile(r"(?:avx|amx|fma|f16c|sse4_2|asimd|sve|bf16|i8mm)\w*")
_BUILT_WITH = re.compile(r"^ *- (.*(?:Math Kernel|MKL-DNN|oneDNN|OpenMP|CUDA Runtime|CuDNN|Magma).*)$", re.MULTILINE)


def manifest(
    *,
    seed: int,
    data_fingerprint: str,
    module: nn.Module,
    command: Sequence[str],
    precision: str,
    trust: Sequence[str] = (),
    pretrained: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the manifest of a run as plain values.

    Args:
        seed: Seed of the run.
        data_fingerprint: Hash of the content of the data.
        module: Module to train, before the first step; its parameters are counted and hashed.
        command: Command line, from which arguments that set secrets are removed.
        precision: Precision of the trainer, such as `32-true`.
        trust: Packages besides etude whose classes the configuration may name.
        pretrained: Files of pretrained weights (`PretrainedFiles.describe`); None: no pretrained weights.
    """
    return {
        "command": public_arguments(command),
        "seed": seed,
        "data": {"fingerprint": data_fingerprint},
        "parameters": parameters(module),
        "first_weights": weights_hash(module),
        "pretrained": dict(pretrained or {}),
        "code": {**code(_CODE), "sources": {name: sources(name) for name in ("etude", *trust)}},
        "packages": packages(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "accelerators": accelerators(),
        "precision": precision,
        "torch": torch_settings(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


def parameters(module: nn.Module) -> dict[str, int]:
    """Return the number of all parameters and of trainable ones; tied parameters count once."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return {"total": sum(size for size, _ in sizes), "trainable": sum(size for size, trained in sizes if trained)}


def weights_hash(module: nn.Module) -> str:
    """Return the sha256 of the names and contents of a module's state."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def processor() -> dict[str, Any]:
    """Return the processor's name, its vector instructions, and the numbers of threads that torch uses."""
    cpuinfo = _cpuinfo()
    return {
        "name": cpuinfo.get("model name") or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "flags": sorted(filter(_VECTOR_FLAG.fullmatch, (cpuinfo.get("flags") or cpuinfo.get("Features", "")).split())),
        "threads": torch.get_num_threads(),
        "threads_between_operations": torch.get_num_interop_threads(),
    }


def _cpuinfo() -> dict[str, str]:
    """Return Linux's description of the first core; empty on other systems."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def accelerators() -> list[str]:
    """Return the names of the visible GPUs."""
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def torch_settings() -> dict[str, Any]:
    """Return the settings of torch that affect results or speed."""
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "default_dtype": str(torch.get_default_dtype()),
        "built_with": _BUILT_WITH.findall(torch.__config__.show()),
        "mkl": torch.backends.mkl.is_available(),
        "onednn": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
    }
