"""Finds the names of the classes of a language-ID head, from clips whose languages are known.

The released checkpoint does not name its languages, and nobody has published their order.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..data.batches import SpeechBatches, plan_batches
from ..data.rows import blocks, durations_of, select_rows, with_offsets
from ..data.summary import languages_in
from ..inference.pieces import LONGEST_SECONDS
from ..model.configuration_mlpl import language_names
from ..model.modeling_mlpl import MlplForCTC
from ..model.processing_mlpl import MlplProcessor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamedClass:
    """Holds the class that fits a language best, and how sure that is.

    Args:
        number: of the class; None for a language with fewer than two usable clips.
        probability: mean over the language's clips that the model gives to the class.
        is_likeliest: whether the model gives no other class a higher one.
        margin: by how much the sum of all languages' probabilities falls if this language takes another class, and
            the others the best ones that are left.
        num_clips: clips that were used.
    """

    language: str
    number: int | None
    probability: float
    is_likeliest: bool
    margin: float
    num_clips: int

    @property
    def is_sure(self) -> bool:
        """Returns whether the class is the likeliest one, and the margin exceeds what chance explains.

        That is 0.5 / sqrt(clips), the largest possible standard error of a mean of probabilities.
        """
        return self.is_likeliest and self.margin > 0.5 / math.sqrt(self.num_clips)


def find_language_names(
    model: MlplForCTC,
    processor: MlplProcessor,
    dataset: Dataset,
    per_language: int = 50,
    max_batch_seconds: float = 50.0,
    num_workers: int = 0,
    progress: tqdm | None = None,
) -> list[NamedClass]:
    """Assigns each language of labelled utterances to a class of the model's language-ID head.

    Of all assignments, it takes the one with the greatest sum of mean probabilities. A language that the model does
    not know gets a class, too, but not a sure one, unless the model takes it for a language without clips.

    Args:
        model: in evaluation mode.
        dataset: utterances with a `language`; they need no text. Those of more than 35 s are left out.
        per_language: utterances of each language, evenly spread over its rows.
        progress: a bar that counts utterances.

    Raises:
        ValueError: for a model without language-ID head, and for more languages than it has classes.
    """
    languages, num_classes = languages_in(dataset), len(getattr(model.config, "languages", ()))
    if not num_classes:
        raise ValueError("the model has no language-ID head, so there are no classes to name")
    if len(languages) > num_classes:
        raise ValueError(
            f"the data have {len(languages)} languages, and the model's language-ID head {num_classes} classes; "
            "choose languages that the model knows (--languages)"
        )
    codes = _language_codes(dataset, languages)
    is_short = durations_of(dataset) <= LONGEST_SECONDS
    chosen = [_spread(np.flatnonzero((codes == code) & is_short), per_language) for code in range(len(languages))]
    rows = np.concatenate([np.empty(0, int), *chosen])
    sums, counts = np.zeros((len(languages), num_classes)), np.zeros(len(languages), int)
    clips = select_rows(dataset, rows)
    for batch, probabilities in _probabilities(model, processor, clips, max_batch_seconds, num_workers, progress):
        row_codes = codes[rows[batch]]
        np.add.at(sums, row_codes, probabilities)
        np.add.at(counts, row_codes, 1)
    usable = np.flatnonzero(counts > 1)  # a single clip cannot make sure, but could make another language unsure
    means = sums[usable] / counts[usable, None]
    numbers, margins = assign(means)
    found = [NamedClass(name, None, 0.0, False, 0.0, int(n)) for name, n in zip(languages, counts, strict=True)]
    for code, number, margin, mean in zip(usable, numbers, margins, means, strict=True):
        is_likeliest = bool(mean[number] == mean.max())
        found[code] = NamedClass(
            languages[code], int(number), float(mean[number]), is_likeliest, float(margin), int(counts[code])
        )
    return found


def _probabilities(
    model: MlplForCTC,
    processor: MlplProcessor,
    clips: Dataset,
    max_batch_seconds: float,
    num_workers: int,
    progress: tqdm | None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yields rows of the clips, and (B, C) probabilities of the classes; clips that cannot be read are skipped."""
    if progress is not None:
        progress.reset(total=len(clips))
    plan = plan_batches(durations_of(clips), max_batch_seconds)
    batches = SpeechBatches(clips, plan, processor, model.config, with_labels=False)
    for batch in DataLoader(batches, batch_size=None, sampler=range(len(plan)), num_workers=num_workers):
        for problem in batch.problems.values():
            logger.warning("%s; skipped", problem)
        if batch.indices:
            with torch.inference_mode():
                log_probs = model(**batch.inputs(model.device)).language_log_probs
            yield batch.indices, log_probs.double().exp().cpu().numpy()
        if progress is not None:
            progress.update(len(batch.indices) + len(batch.problems))


def _language_codes(dataset: Dataset, languages: Sequence[str]) -> np.ndarray:
    """Returns (N,) positions of the utterances' languages in `languages`."""
    codes, names = np.empty(len(dataset), np.int16), pa.array(languages, pa.string())
    for first, block in with_offsets(blocks(dataset, ["language"])):
        codes[first : first + len(block)] = pc.index_in(block["language"], names).to_numpy()
    return codes


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """Returns `count` of the rows, from the first to the last; all if there are fewer."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]


def assign(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the class of each language for which the sum of probabilities is greatest, and the margins.

    Args:
        means: (L, C), mean probability of each class for each language, L <= C.

    Returns:
        (L,) classes and (L,) margins, as in [`NamedClass`].
    """
    import networkx  # not at the top: it takes half a second

    graph = networkx.Graph()
    for (language, number), mean in np.ndenumerate(means):
        # Whole numbers, because the algorithm may not find the exact maximum of floats
        graph.add_edge(language, len(means) + number, weight=round(float(mean) * 1e12))
    pairs = sorted(map(sorted, networkx.max_weight_matching(graph, maxcardinality=True)))
    classes = np.array([number - len(means) for _, number in pairs], int)
    return classes, _margins(means, classes)


def _margins(means: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns (L,) the least loss of each language's exchange of its class.

    An exchange is a cycle: each language takes the class of the next one. One more node stands for the classes that
    no language has. The least loss of a cycle is the shortest path from a node to itself, by Floyd and Warshall.
    """
    size = len(means)
    losses = np.full((size + 1, size + 1), np.inf)
    own = means[np.arange(size), classes]
    losses[:size, :size] = own[:, None] - means[:, classes]
    free = np.setdiff1d(np.arange(means.shape[1]), classes)
    if len(free):
        losses[:size, size] = own - means[:, free].max(axis=1)
        losses[size, :size] = 0.0
    np.fill_diagonal(losses, np.inf)
    for node in range(size + 1):
        losses = np.minimum(losses, losses[:, node, None] + losses[None, node, :])
    return np.maximum(np.diagonal(losses)[:size], 0.0)


def names_in_order(names: Sequence[str], found: Sequence[NamedClass]) -> list[str]:
    """Returns the names of all classes: those that are sure; the model's own ones for the others.

    A class whose own name belongs to another one gets its number, such as `language_17`.
    """
    sure = {named.number: named.language for named in found if named.is_sure}
    taken, numbered = set(sure.values()), language_names(len(names))
    rest = [numbered[number] if name in taken else name for number, name in enumerate(names)]
    return [sure.get(number, name) for number, name in enumerate(rest)]
