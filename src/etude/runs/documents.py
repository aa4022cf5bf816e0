"""Schemas of the files in a run's folder; `etude.runs.reading` reads them.

Every type has exactly the keys that are written. A key that is missing, of another type or unknown (another version of
etude made the folder, or somebody edited it) is a `BrokenFileError` that names file and field, exit code 65. A field
has a default only where the file may leave it out. Free-form, since others than etude may fill them, are only what a
data module says besides in `data.json`, what a task says of its rows in an evaluation's `details`, the rows themselves,
and an export's `proof`.

`document.plain()` gives back what the file says, as plain values.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

Count = Annotated[int, Meta(ge=0)]
"""A number of things."""

Number = int | float | str | None
"""A number as JSON can hold it, text where it is not finite, and null where there is none."""

Interval = Annotated[list[float], Meta(min_length=2, max_length=2)]
"""Both ends of an interval."""

Link = Annotated[list[Count], Meta(min_length=2, max_length=2)]
"""A place in one list, and the one in another that belongs to it."""

Both = Annotated[list[Number], Meta(min_length=2, max_length=2)]
"""A number in one run, and in another."""


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An object in a file, or a part of one."""

    def plain(self) -> dict[str, Any]:
        """Return the object as the file says it, as plain values."""
        return cast(dict[str, Any], msgspec.to_builtins(self))


# manifest.json


class Parameters(Document, frozen=True):
    """How many parameters there are; tied ones count once."""

    total: Count
    trainable: Count


class Fingerprint(Document, frozen=True):
    """Hash of the content of the data."""

    fingerprint: str


class PretrainedSource(Document, frozen=True, omit_defaults=True):
    """The files that pretrained weights come from; nothing is set where there are none."""

    name: str | UnsetType = UNSET
    version: str | UnsetType | None = UNSET
    sha256: dict[str, str] | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Refuse a part of it."""
        if len({value is UNSET for value in (self.name, self.version, self.sha256)}) > 1:
            raise ValueError("name, version and sha256 are there together or not at all")


class Code(Document, frozen=True):
    """State of the code; None where there is no git, or nothing was changed."""

    commit: str | None
    changes: str | None
    sources: dict[str, str | None]


class Processor(Document, frozen=True):
    """The processor as torch uses it."""

    name: str
    machine: str
    cores: Count | None
    vectors: str
    flags: list[str]
    threads: Annotated[int, Meta(ge=1)]
    threads_between_operations: Annotated[int, Meta(ge=1)]


class TorchSettings(Document, frozen=True):
    """Settings of torch that change bits or speed."""

    deterministic: bool
    matmul_precision: str
    default_dtype: str
    built_with: list[str]
    mkl: bool
    onednn: bool
    cuda: str | None
    cudnn: int | None
    cudnn_deterministic: bool
    cudnn_benchmark: bool
    cudnn_tf32: bool


class Start(Document, frozen=True):
    """A run whose weights another one began with, or learned from, and what it began with itself."""

    run: str
    checkpoint: str
    weights: str
    start: Start | None


class MergedSource(Start, frozen=True):
    """A run that was to be merged with others, its score by itself if it has one, and whether the mean is of it."""

    score: float | None
    kept: bool


class Merged(Document, frozen=True):
    """What a merged run is the mean of; see `etude.training.from_runs.merging`."""

    method: str
    metric: str
    sources: list[MergedSource]


class RunManifest(Document, frozen=True, omit_defaults=True):
    """What a run is made of; see `etude.runs.manifest.manifest`."""

    command: list[str]
    seed: int
    data: Fingerprint
    parameters: Parameters
    first_weights: str
    pretrained: PretrainedSource
    code: Code
    packages: dict[str, str | None]
    python: str
    platform: str
    processor: Processor
    accelerators: list[str]
    precision: str
    torch: TorchSettings
    environment: dict[str, str]
    start: Start | None = None
    teacher: Start | None = None
    merged: Merged | None = None


# data.json, facts.json


class TokenizerFacts(Document, frozen=True):
    """Size and hash of a tokenizer."""

    vocabulary: Count
    fingerprint: str


class Batch(Document, frozen=True):
    """The global batch of one step; see `etude.data.sizes.BatchSize`."""

    tokens: int | None
    examples: int | None
    pool: int | None
    shuffle: Literal["stored", "keyed"] | UnsetType = UNSET


class Data(Document, frozen=True, forbid_unknown_fields=False):
    """Description of the data; what a data module says besides is passed over (see `describe` of each)."""

    rows: dict[str, Count]
    dropped: dict[str, dict[str, Count]]
    fingerprint: str
    classes: list[str]
    tokenizer: TokenizerFacts
    batch: Batch
    steps_per_epoch: Annotated[int, Meta(ge=1)]
    tokens_per_step: float


class StoredDirection(Document, frozen=True):
    """What stands around the texts of a pair: `etude.types.Direction`."""

    name: str
    start: Count
    after_source: Annotated[list[Count], Meta(min_length=1)]
    after_target: Annotated[list[Count], Meta(min_length=1)]
    before_source: list[Count]
    before_target: list[Count]
    prefix: str


class StoredFacts(Document, frozen=True, omit_defaults=True):
    """What a model must know of the data: `etude.types.Facts.from_json(facts.plain())`."""

    vocabulary: Annotated[int, Meta(ge=1)]
    pad: Count
    bos: Count
    eos: Count
    mask: Annotated[int, Meta(ge=-1)]
    classes: list[str]
    segments: Annotated[int, Meta(ge=1, le=2)]
    center: float
    scale: float
    source_vocabulary: Annotated[int, Meta(ge=1)] | None
    turn_end: Annotated[int, Meta(ge=-1)] = -1
    directions: list[StoredDirection] = []

    def __post_init__(self) -> None:
        """Refuse special ids that the vocabulary does not have."""
        for name in ("pad", "bos", "eos", "mask", "turn_end"):
            if getattr(self, name) >= self.vocabulary:
                raise ValueError(f"{name} is {getattr(self, name)}, no id of a vocabulary of {self.vocabulary}")
        for place, direction in enumerate(self.directions):
            read = [*direction.before_source, *direction.after_source]
            written = [direction.start, *direction.before_target, *direction.after_target]
            for ids, size in ((read, self.source_vocabulary or self.vocabulary), (written, self.vocabulary)):
                if max(ids, default=0) >= size:
                    raise ValueError(f"directions[{place}] has {max(ids)}, no id of a vocabulary of {size}")


# cost.json


class Cost(Document, frozen=True):
    """What a training has cost; None could not be measured. See `etude.training.cost.cost`."""

    parameters: Parameters
    steps: Count
    tokens: Count
    flops: Count | None
    flops_are: str
    model_flops_utilisation: float | None
    peak_flops: float | None
    peak_is: str
    seconds: float
    validation_seconds: float
    cpu_seconds: float
    gpu_seconds: float
    peak_memory_mb: float
    peak_gpu_memory_mb: float
    energy_joules: float
    energy_estimated: bool
    energy_estimated_joules: float
    energy_is: str


# evaluations/<name>.json, finished.json


class EvaluatedFiles(Document, frozen=True):
    """What was evaluated on in place of a split of the data."""

    source: str
    references: list[str]


class TaggedSentence(Document, frozen=True):
    """A sentence with marked words: first word, one past the last word, and kind of each mark."""

    words: list[str]
    labels: list[tuple[Count, Count, str]]
    predictions: list[tuple[Count, Count, str]]


class Details(Document, frozen=True, forbid_unknown_fields=False, omit_defaults=True):
    """What a task says of its rows besides scores, as far as etude shows it; see `etude.tasks.base.Task.details`."""

    calibration: dict[str, int | float | str] = {}
    confusion: dict[str, dict[str, Count]] = {}
    errors: list[dict[str, str]] = []
    tagged: list[TaggedSentence] = []
    spans: dict[str, dict[str, Count]] = {}


PRUNED = "pruned"
"""Begin of the reason why a pruned member of a sweep ended."""


class Scored(Document, frozen=True, omit_defaults=True):
    """Scores on a split, with what they need to be believed."""

    split: str
    checkpoint: str
    examples: Count
    scores: dict[str, float]
    intervals: dict[str, Interval]
    signatures: dict[str, str]
    files: EvaluatedFiles | None = None
    settings: dict[str, Any] = {}
    left_out_or_changed: dict[str, Count] = {}
    ensemble: list[str] = []


class Evaluation(Scored, frozen=True, omit_defaults=True):
    """One evaluation; see `etude.training.checkpoint_evaluation.evaluate_checkpoint`."""

    details: Details = Details()


class Conclusion(Scored, frozen=True, kw_only=True, omit_defaults=True):
    """What a run ended with.

    `averages` has the scores of the averages of checkpoints that were tried, and of the best checkpoint.
    """

    step: Count
    ended: str
    averages: dict[str, float] = {}


# failed.json


class Failure(Document, frozen=True):
    """Why the last attempt at a run ended with an error; see `etude.runs.failure.failure_noted`."""

    code: int
    reason: str


# changes.jsonl, metrics.jsonl


class Change(Document, frozen=True):
    """What a run was continued with that it was not begun with: changes by key, such as `1 -> 2`."""

    step: Count
    changed: dict[str, str]


# attention.json


class HeadStatistics(Document, frozen=True):
    """What a head of attention does; see `etude.metrics.head_summary.HeadSummary`."""

    entropy: float
    distance: float
    diagonal: float
    previous: float
    next: float
    first: float
    last: float


class AttentionWeights(Document, frozen=True):
    """The weights of one attention, by head, row and column."""

    name: str
    rows: list[str]
    columns: list[str]
    weights: list[list[list[float]]]
    heads: list[HeadStatistics]

    def __post_init__(self) -> None:
        """Refuse weights that are not one for each head, row and column."""
        rows, columns = len(self.rows), len(self.columns)
        whole = all(len(head) == rows and all(len(row) == columns for row in head) for head in self.weights)
        if len(self.heads) != len(self.weights) or not whole:
            raise ValueError(
                f"the weights are not one for each of {len(self.heads)} heads, {rows} rows, {columns} columns"
            )


class WordAlignment(Document, frozen=True):
    """Which words attend to which: links of a source and a target word, from 0."""

    by: str
    source: list[str]
    target: list[str]
    links: list[Link]

    def __post_init__(self) -> None:
        """Refuse links of words that are not there."""
        for source, target in self.links:
            if source >= len(self.source) or target >= len(self.target):
                raise ValueError(
                    f"a link {source}-{target} between {len(self.source)} and {len(self.target)} words leads nowhere"
                )


class StoredInspection(Document, frozen=True):
    """The attention to one text: `etude.report.inspection.Inspection.from_json(inspection.plain())`."""

    text: str
    target: str | None
    given: bool
    maps: list[AttentionWeights]
    alignment: WordAlignment


# reproduction.json, export.json


class Section(Document, frozen=True):
    """One section of two manifests: whether it is the same, what it is now, and changes by key."""

    same: bool
    is_: dict[str, Any] = msgspec.field(name="is")
    differs: dict[str, str]


class FirstLine(Document, frozen=True):
    """The first line in which two records differ, and both values of each name that does."""

    line: Annotated[int, Meta(ge=1)]
    step: Count
    values: dict[str, Both]


class FirstTensor(Document, frozen=True, omit_defaults=True):
    """The first tensor that differs, by how much, or the only checkpoint that has it."""

    file: str
    tensor: str
    largest_difference: float | str | UnsetType | None = UNSET
    only_in: str | UnsetType = UNSET


class Reproduction(Document, frozen=True):
    """What a reproduction came to; see `etude.commands.reproduce.reproduce`."""

    run: str
    reproduction: str
    code: Section
    packages: Section
    hardware: Section
    settings: Section
    data: Section
    deterministic: bool
    continued: list[Change]
    identical: bool
    first_line: FirstLine | None
    first_tensor: FirstTensor | None
    scores: dict[str, Both]


class Export(Document, frozen=True, omit_defaults=True):
    """What an export was made from, how it was proved, and the sha256 of each of its files."""

    run: str
    checkpoint: str
    to: str
    proof: dict[str, Any]
    files: dict[str, str] = {}
