"""Plugins of Hydra: a launcher that runs each member as a process of its own, and sweepers that can be killed and continued.

`hydra/launcher=local` and `hydra/sweeper=etude` are the defaults of `etude train -m`. `hydra/sweeper=optuna` takes the keys
that users of Hydra's plugin of that name know.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from etude.errors import ConfigurationError
from etude.sweeps.launchers.choice import runs_members

CALL = "etude_call"
"""Attribute of the task function that Hydra calls: what runs a sweep."""


@dataclass
class LocalConf:
    """`hydra/launcher=local`."""

    _target_: str = "hydra_plugins.etude_sweeps.LocalMembers"
    slots: int | None = None
    """Members at a time; null: one for each GPU, or one."""


@dataclass
class RayConf:
    """`hydra/launcher=ray`: members at places of a Ray cluster."""

    _target_: str = "hydra_plugins.etude_sweeps.RayMembers"
    address: str | None = None
    """auto, HOST:PORT or ray://HOST:PORT; null: starts a Ray on this machine."""
    cpus: int = 1
    """For each device of a member, which computes with as many threads."""
    gpus: float | None = None
    """For each device; null: one where a node has any, otherwise none."""
    slots: int | None = None
    """At most so many devices at a time; null: as many as the cluster has room for."""
    shared: bool | None = None
    """Whether nodes see the folder of the runs; null: each node is asked."""


@dataclass
class LocalJobsConf:
    """`hydra/launcher=submitit_local`: SLURM's stand-in on this machine. Keys are those of Hydra's plugin, and `slots`."""

    _target_: str = "hydra_plugins.etude_sweeps.LocalJobs"
    slots: int | None = None
    """Devices at a time; null: one, on SLURM array_parallelism."""
    submitit_folder: str | None = None
    """Folder of scripts and logs; null: in the sweep's."""
    timeout_min: int = 60
    """After so many minutes a member saves, and its job is requeued."""
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    mem_gb: int | None = None
    name: str = "etude"
    stderr_to_stdout: bool = False


@dataclass
class SlurmConf(LocalJobsConf):
    """`hydra/launcher=submitit_slurm`: each member a job of SLURM. Keys are those of Hydra's plugin, and `slots`."""

    _target_: str = "hydra_plugins.etude_sweeps.SlurmMembers"
    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    comment: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    cpus_per_gpu: int | None = None
    gpus_per_task: int | None = None
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    signal_delay_s: int = 120
    """Seconds before its end in which a job saves."""
    max_num_timeout: int = 100
    """So often a job whose time is up is requeued."""
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    array_parallelism: int = 256
    setup: list[str] | None = None


@dataclass
class SweeperConf:
    """`hydra/sweeper=etude`."""

    _target_: str = "hydra_plugins.etude_sweeps.EtudeSweeper"
    params: dict[str, Any] | None = None
    """Words that every sweep has besides those of the command line."""


@dataclass
class SamplerConf:
    """`hydra.sweeper.sampler`."""

    name: str = "tpe"
    """tpe, random, cmaes or grid."""
    seed: int | None = None


@dataclass
class OptunaConf:
    """`hydra/sweeper=optuna`."""

    _target_: str = "hydra_plugins.etude_sweeps.OptunaSweeper"
    n_trials: int = 20
    n_jobs: int | None = None
    """Members at a time; null: hydra.launcher.slots."""
    direction: str | None = None
    """minimize or maximize; null: that of validate.mode."""
    study_name: str | None = None
    """Name of the sweep."""
    sampler: SamplerConf = field(default_factory=SamplerConf)
    params: dict[str, Any] | None = None


_STORE = ConfigStore.instance()
_STORE.store(group="hydra/launcher", name="local", node=LocalConf, provider="etude")
_STORE.store(group="hydra/launcher", name="ray", node=RayConf, provider="etude")
_STORE.store(group="hydra/launcher", name="submitit_local", node=LocalJobsConf, provider="etude")
_STORE.store(group="hydra/launcher", name="submitit_slurm", node=SlurmConf, provider="etude")
_STORE.store(group="hydra/sweeper", name="etude", node=SweeperConf, provider="etude")
_STORE.store(group="hydra/sweeper", name="optuna", node=OptunaConf, provider="etude")


class EtudeSweeper(Sweeper):
    """Runs a sweep in one folder, which can be killed and continued; with another launcher, every combination as a job."""

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = dict(params or {})
        self._setup: dict[str, Any] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra has composed."""
        self._setup = {"hydra_context": hydra_context, "task_function": task_function, "config": config}

    def sweep(self, arguments: list[str]) -> Any:
        """Run the members that the words of the command line describe."""
        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        config: DictConfig = self._setup["config"]
        launcher = OmegaConf.to_container(config.hydra.launcher)
        if isinstance(launcher, dict) and runs_members(launcher):  # type: ignore[arg-type]
            return getattr(self._setup["task_function"], CALL).sweep([*words, *self.words()])
        if self.words():
            raise ConfigurationError("hydra/sweeper=optuna has to know how members end; write hydra/launcher=local")
        basic = BasicSweeper(max_batch_size=None)
        basic.setup(**self._setup)
        return basic.sweep(words)

    def words(self) -> list[str]:
        """Return the words of a sweep that this sweeper's own configuration stands for."""
        return []


class OptunaSweeper(EtudeSweeper):
    """Draws the members by Optuna."""

    def __init__(
        self,
        n_trials: int,
        n_jobs: int | None,
        direction: str | None,
        study_name: str | None,
        sampler: DictConfig,
        params: Mapping[str, Any] | None,
    ) -> None:
        super().__init__(params)
        self._words = [f"searcher={sampler.name}", f"sweep.trials={n_trials}"]
        self._words += [] if sampler.seed is None else [f"sweep.seed={sampler.seed}"]
        self._words += [] if n_jobs is None else [f"hydra.launcher.slots={n_jobs}"]
        self._words += [] if study_name is None else [f"sweep.name={study_name}"]
        self._words += [] if direction is None else [f"validate.mode={direction[:3]}"]

    def words(self) -> list[str]:
        """Return the searcher, the number of trials, and what else was given."""
        return self._words


class LocalMembers(Launcher):
    """Runs each member as a process of its own, some at a time.

    etude's sweepers hand it whole sweeps. Of another sweeper it gets jobs, batch by batch; each batch is then a sweep.
    """

    def __init__(self, slots: int | None = None) -> None:
        self.slots = slots
        self._call: Any = None
        self._begun = time.strftime("%Y-%m-%d_%H-%M-%S")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra has composed."""
        self._call = getattr(task_function, CALL)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of a sweeper that is not etude's; each returns the best of its validations."""
        name = f"sweep.name={self._begun}-{initial_job_idx}"
        scores = self._call.jobs([list(job) for job in job_overrides], [name])
        returns = []
        for job, score in zip(job_overrides, scores, strict=True):
            done = JobReturn(overrides=list(job))
            done.status = JobStatus.COMPLETED
            done.return_value = score
            returns.append(done)
        return returns


class RayMembers(LocalMembers):
    """Runs each member at a place of a Ray cluster."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(settings["slots"])


class LocalJobs(LocalMembers):
    """Runs each member as a job of submitit's local executor."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(settings["slots"])


class SlurmMembers(LocalJobs):
    """Runs each member as a job of SLURM."""
