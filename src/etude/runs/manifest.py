"""The manifest of a run: its code, packages, machine and data, recorded at the start and compared on reproduction."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from etude.config.values import public_arguments

PACKAGES = (
    "etude",
    "torch",
    "lightning",
    "hydra-core",
    "omegaconf",
    "numpy",
    "pyarrow",
    "safetensors",
    "tokenizers",
    "transformers",
    "torchmetrics",
    "sacrebleu",
    "wandb",
)
"""Packages whose versions can affect results."""

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
_GIT_SECONDS = 5.0


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


def packages() -> dict[str, str | None]:
    """Return the versions of `PACKAGES`; None for packages that are not installed."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def code(folder: Path) -> dict[str, str | None]:
    """Return the commit and uncommitted changes of the code in a folder.

    Returns:
        `commit`: None without git or a commit, or if the folder is an installed package (which has a version).
        `changes`: sha256 of the differences from the commit, including untracked files; None if there are none.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    # An installed package may lie inside a repository that does not track it.
    if commit is None or not _git(folder, "ls-files", "--", "."):
        return {"commit": None, "changes": None}
    difference = _git(folder, "diff", "HEAD", "--binary", "--", ".") or b""
    untracked = (_git(folder, "ls-files", "--others", "--exclude-standard", "-z", "--", ".") or b"").split(b"\0")
    files = [folder / os.fsdecode(name) for name in untracked if name and (folder / os.fsdecode(name)).is_file()]
    digest = hashlib.sha256(difference)
    for file in files:
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes() + b"\0")
    return {"commit": commit.decode().strip(), "changes": digest.hexdigest() if difference or files else None}


def sources(package: str) -> str | None:
    """Return the sha256 of the paths and contents of a package's Python files; None if there is no such package."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    digest, origin = hashlib.sha256(), Path(spec.origin)
    for file in sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]:
        digest.update(file.relative_to(origin.parent).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Return the output of a git command in a folder; None if git is missing or fails."""
    try:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, check=True, timeout=_GIT_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return None


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
