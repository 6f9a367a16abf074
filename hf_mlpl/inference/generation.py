"""Decodes a data set with a model that generates text: Whisper, Moonshine, Canary, audio language models and others.

The model's own processor makes the inputs, with the request to transcribe speech of the utterance's language. The
search is greedy, so that a label depends on nothing but its utterance: neither on chance nor on the batch.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from math import fsum
from threading import Event
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm
from transformers import (
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto import modeling_auto

from ..audio.open_recordings import OpenRecordings
from ..audio.reading import stream_audio
from ..data.batches import plan_batches
from ..data.rows import blocks, durations_of, select_rows
from ..data.words import join_texts
from .clock import Clock, Stopwatch, TimedBatch
from .decoding import DURATION_TOLERANCE, Hypothesis, decode_in_threads, workers_of
from .pieces import explain_memory_errors, join_language_log_probs, prefetch
from .quiet_cuts import cut_where_quiet
from .transcription_requests import Request, make_request

logger = logging.getLogger(__name__)

LEAST_SECONDS = 0.1  # shorter audio is padded with silence, because convolutions refuse it
# Tokens of a piece, at most, where neither the model nor its generation_config.json says less. Whisper has as many.
MAX_NEW_TOKENS = 448
# Settings of `generation_config.json` that make the search another than the greedy one, end it before the text ends,
# or need what only a caller can give.
OTHER_SEARCHES = (
    *("penalty_alpha", "dola_layers", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp"),
    *("force_words_ids", "constraints", "guidance_scale", "watermarking_config", "token_healing"),
    *("stop_strings", "max_time", "max_new_tokens"),
)


def generates(config: PreTrainedConfig) -> bool:
    """Returns whether models of a configuration generate text, as opposed to CTC models."""
    # An older transformers has no mapping of the models that take text and sound.
    multimodal = getattr(modeling_auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING", ())
    return type(config) in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING or type(config) in multimodal


@contextmanager
def _ending_with(stopped: Event, model: PreTrainedModel) -> Iterator[None]:
    """Lets the layers of a model raise an error when `stopped` is set, because a batch may take minutes on a CPU."""

    def check(*_) -> None:
        if stopped.is_set():
            raise CancelledError

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    hooks = [layer.register_forward_pre_hook(check) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _prompt_length(inputs: dict) -> int:
    """Returns the tokens of an encoder-decoder model before the text, which begins after a start token at least."""
    if "decoder_input_ids" in inputs:
        return inputs["decoder_input_ids"].shape[1]
    return 2 if "tgt_lang" in inputs else 1  # SeamlessM4T adds the token of the language


class LogProbs(LogitsProcessor):
    """Records the log-probability of each token that a greedy search takes, after all tokens that it suppresses.

    The search itself keeps scores of the whole vocabulary, which takes gigabytes for a batch.
    """

    def __init__(self):
        self.steps: list[torch.Tensor] = []  # (B,), for each token
        self.first: torch.Tensor | None = None  # (B, V), log-probabilities of the first token

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        log_probs = scores.float().log_softmax(-1)
        if self.first is None:
            self.first = log_probs
        self.steps.append(log_probs.max(-1).values)
        return scores


@dataclass(frozen=True)
class GeneratedText:
    """Holds the text of a piece.

    Args:
        log_probs: of the tokens, the end token included.
        is_complete: whether the text ended before the longest length.
        no_speech_probability, language_log_probs: from `Request.look`.
        seconds: duration of the piece.
    """

    text: str
    log_probs: Sequence[float]
    is_complete: bool
    no_speech_probability: float | None
    language_log_probs: torch.Tensor | None
    seconds: float


@dataclass
class WindowBatch:
    """Holds pieces of utterances of one language as a model's inputs.

    Args:
        inputs: of `generate`; None without pieces.
        rows: of the data set, of each piece.
        is_last, seconds: of each piece.
        locale, language: Common Voice's name of the language, and the model's.
        problems: one line for each row that cannot be read; it may have pieces in earlier batches.
        extraction_seconds: that the inputs took, without the decoding of audio.
    """

    inputs: dict | None
    rows: list[int]
    is_last: list[bool]
    seconds: list[float]
    locale: str
    language: str | None
    problems: dict[int, str] = field(default_factory=dict)
    extraction_seconds: float = 0.0


class WindowBatches(IterableDataset):
    """Makes batches of at most `max_batch_seconds`, of the pieces of utterances of one language, longest first.

    Args:
        request: makes the inputs.
        languages: the model's names of the locales.
        pads_to_window: whether the model computes a whole window for each piece, however short it is.
        pads_exactly: whether pieces of different lengths may share a batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        request: Request,
        languages: dict[str, str | None],
        max_batch_seconds: float,
        pads_to_window: bool,
        pads_exactly: bool,
    ):
        self.dataset, self.request, self.languages = dataset, request, languages
        self.pads_to_window, self.window = pads_to_window, request.window_seconds
        self.max_batch_seconds = max_batch_seconds if pads_exactly else 0.0  # then each piece is a batch
        self.recordings = OpenRecordings()

    @cached_property
    def plan(self) -> list[list[int]]:
        """Returns the rows of each batch."""
        return self.plan_of(np.arange(len(self.dataset)))

    def plan_of(self, rows: np.ndarray) -> list[list[int]]:
        """Returns the plan of some rows."""
        part = select_rows(self.dataset, rows)
        seconds, plan = self.computed_seconds(durations_of(part)), []
        locales = np.array([name for block in blocks(part, ["language"]) for name in block["language"].to_pylist()])
        for locale in sorted(set(locales.tolist())):
            places = np.flatnonzero(locales == locale)
            plan += [places[np.sort(batch)] for batch in plan_batches(seconds[places], self.max_batch_seconds)]
        plan.sort(key=lambda batch: -seconds[batch].max())
        return [rows[batch].tolist() for batch in plan]

    def computed_seconds(self, seconds: np.ndarray) -> np.ndarray:
        """Returns the audio that the model computes for recordings of `seconds`."""
        return np.ceil(seconds / self.window) * self.window if self.pads_to_window else seconds

    def __iter__(self) -> Iterator[WindowBatch]:
        worker = get_worker_info()
        share = slice(None) if worker is None else slice(worker.id, None, worker.num_workers)
        for rows in self.plan[share]:
            yield from self.make_batches(rows)

    def make_batches(self, rows: list[int]) -> Iterator[WindowBatch]:
        """Yields one batch or more of the utterances of a batch of the plan."""
        columns, rate = self.dataset[rows], self.request.sampling_rate
        locale = columns["language"][0]
        samples: list[np.ndarray] = []
        batch = WindowBatch(None, [], [], [], locale, self.languages[locale])
        longest = 0.0
        for i, row in enumerate(rows):
            try:
                audio = stream_audio(columns["audio"][i], rate, self.recordings)
                for piece, is_last in cut_where_quiet(audio, rate, self.window):
                    seconds = len(piece) / rate
                    computed = float(self.computed_seconds(np.array(seconds)))
                    longest = max(longest, computed)
                    if samples and longest * (len(samples) + 1) > DURATION_TOLERANCE * self.max_batch_seconds:
                        yield self._collate(batch, samples)
                        samples, longest = [], computed
                        batch = WindowBatch(None, [], [], [], locale, self.languages[locale])
                    samples.append(np.pad(piece, (0, max(0, round(LEAST_SECONDS * rate) - len(piece)))))
                    batch.rows.append(row)
                    batch.is_last.append(is_last)
                    batch.seconds.append(seconds)
            except (OSError, ValueError) as error:
                batch.problems[row] = f"utterance {columns['id'][i]}: {error}"
        if samples or batch.problems:
            yield self._collate(batch, samples)

    def _collate(self, batch: WindowBatch, samples: list[np.ndarray]) -> WindowBatch:
        if samples:
            with Stopwatch() as extraction:
                batch.inputs = self.request.inputs(samples, batch.language)
            batch.extraction_seconds = extraction.seconds
        return batch


class GenerativeTranscriber:
    """Transcribes data sets with a model that generates text, as `transcribe` does with a CTC model.

    Args:
        model, processor: as transformers' Auto classes load them.
        locales: languages of the utterances, which are checked at once.
        any_language: whether a model that hears the language, such as Whisper, writes in that of an utterance whose
            language it does not know. `unknown` has those locales, and `left_out` those for which the model has no
            such way.

    Raises:
        ValueError: for a language that the model does not know; with `any_language`, if all are left out.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        locales: Iterable[str] = (),
        any_language: bool = False,
    ):
        self.model, self.request = model, make_request(model, processor)
        self.languages: dict[str, str | None] = {}
        self.unknown: list[str] = []
        self.left_out: list[str] = []
        problem = None
        for locale in sorted(set(locales)):
            try:
                self.languages[locale] = self.request.language(locale)
            except ValueError as error:
                if not any_language:
                    raise
                if self.request.hears_language:
                    self.languages[locale] = None
                    self.unknown.append(locale)
                else:
                    self.left_out.append(locale)
                    problem = problem or error
        if problem and not self.languages:
            raise problem

    def __call__(
        self,
        dataset: Dataset,
        max_batch_seconds: float | None = None,
        num_workers: int | None = None,
        progress: tqdm | None = None,
        clock: Clock | None = None,
    ) -> Iterator[Hypothesis]:
        """Transcribes every utterance exactly once, about the longest first, in evaluation mode.

        On a CPU without workers, threads generate the texts of several batches at a time with models whose request
        has `runs_in_threads`.

        Recordings that are longer than the model's window are cut where they are quietest, so memory does not grow
        with a recording.

        Args:
            max_batch_seconds: audio of one batch, padding counted, which is whole windows for models such as Whisper.
                It changes the speed, not the texts. By default 240 on a CPU, 120 to 480 for a Whisper according to
                its size, and else 480.
            num_workers: processes that read audio; by default up to 8, and for a CPU none but a thread.
            progress: a bar that counts utterances.
            clock: gets the times of batches.

        Raises:
            MemoryError: for a batch that does not fit into memory.
            ValueError: for a language that the model does not know.
        """
        on_cpu = self.model.device.type == "cpu"
        num_workers = workers_of(self.model, num_workers)
        for block in blocks(dataset, ["language"]):
            for locale in block["language"].unique().to_pylist():
                if locale not in self.languages:
                    self.languages[locale] = self.request.language(locale)
        if not len(dataset):
            return
        clock = clock or Clock()
        clock.batch_seconds = self.batch_seconds(max_batch_seconds)
        was_training, stopped = self.model.training, Event()
        self.model.eval()
        try:
            batches = self.batches_of(dataset, max_batch_seconds)
            if on_cpu and not num_workers and self.request.runs_in_threads:
                results = decode_in_threads(
                    lambda number: self.decode(batches.make_batches(batches.plan[number]), clock),
                    len(batches.plan),
                    stopped,
                )
            elif num_workers:
                batches.plan  # noqa: B018  # before there are workers, which need it
                results = self.decode(DataLoader(batches, batch_size=None, num_workers=num_workers), clock)
            else:
                results = self.decode(prefetch(iter(batches)), clock)
            with _ending_with(stopped, self.model), closing(results):
                for hypotheses in results:
                    yield from hypotheses
                    if progress is not None:
                        progress.update(len(hypotheses))
        finally:
            self.model.train(was_training)

    def batches_of(self, dataset: Dataset, max_batch_seconds: float | None) -> WindowBatches:
        """Returns what makes the batches of a data set, whose languages are known."""
        options = self.batch_seconds(max_batch_seconds), self.pads_to_window, self.pads_exactly
        return WindowBatches(dataset, self.request, self.languages, *options)

    def batch_seconds(self, max_batch_seconds: float | None) -> float:
        """Returns the audio of one batch, by default as `__call__` says."""
        if max_batch_seconds is not None:
            return max_batch_seconds
        return self.request.cpu_batch_seconds(self.model) if self.model.device.type == "cpu" else 480.0

    @cached_property
    def pads_to_window(self) -> bool:
        """Says whether the processor makes as many features of half a window as of less."""
        half = round(self.request.window_seconds * self.request.sampling_rate / 2)
        shorter, longer = (self._noise_inputs([length])[self._sound] for length in (half // 2, half))
        return shorter.shape == longer.shape

    @cached_property
    def pads_exactly(self) -> bool:
        """Says whether padding changes nothing, as batches need it, by trying it out on noise.

        Some encoders normalise over the whole length of a batch (Moonshine's), others have no mask. Then pieces are
        transcribed one by one.
        """
        if self.pads_to_window:  # also where a piece is alone
            return True
        half = round(self.request.window_seconds * self.request.sampling_rate / 2)
        alone, beside = (
            self._first_log_probs(self._noise_inputs(lengths)) for lengths in ([half // 4], [half // 4, half])
        )
        tolerance = 1e-3 if self.model.dtype == torch.float32 else 0.1  # log-probabilities in 16 bits are that rough
        difference = (alone - beside[: len(alone)]).nan_to_num(0.0, posinf=torch.inf).abs().max()  # -inf: suppressed
        is_exact = bool(difference < tolerance)
        if not is_exact:
            logger.warning(
                "%s: padding changes what it hears, so recordings are transcribed one by one", self.request.name
            )
        return is_exact

    @cached_property
    def _sound(self) -> str:
        """Returns the name of the input that holds features or samples."""
        inputs = self._noise_inputs([self.request.sampling_rate])
        return next(name for name, tensor in inputs.items() if torch.is_tensor(tensor) and tensor.is_floating_point())

    def _noise_inputs(self, lengths: Sequence[int]) -> dict:
        rng = np.random.default_rng(0)
        samples = [rng.normal(0, 0.1, length).astype(np.float32) for length in lengths]
        return self.request.inputs(samples, next(iter(self.languages.values())))

    @torch.inference_mode()
    def _first_log_probs(self, inputs: dict) -> torch.Tensor:  # (B, V)
        recorded = LogProbs()
        inputs, _, _ = self.request.look(self.model, self._on_device(inputs))
        self.request.generate(self.model, inputs, **self._options(recorded, inputs, 1))
        return recorded.first

    def decode(self, batches: Iterable[WindowBatch], clock: Clock) -> Generator[list[Hypothesis], None, None]:
        """Yields after each batch the hypotheses of the utterances that end in it."""
        texts_of_row: dict[int, list[GeneratedText]] = defaultdict(list)
        for batch in batches:
            finished = []
            with Stopwatch() as computing:
                texts = [] if batch.inputs is None else self._generate(batch)
                for row, is_last, text in zip(batch.rows, batch.is_last, texts, strict=True):
                    texts_of_row[row].append(text)
                    if is_last:
                        finished.append(self._make_hypothesis(row, batch, texts_of_row.pop(row)))
            if batch.rows:
                seconds = batch.extraction_seconds + computing.seconds
                clock.add(TimedBatch(fsum(batch.seconds), seconds, size=len(batch.rows)))
            for row, problem in batch.problems.items():
                texts_of_row.pop(row, None)
                finished.append(Hypothesis(row=row, error=problem))
            yield finished

    @torch.inference_mode()
    def _generate(self, batch: WindowBatch) -> list[GeneratedText]:
        recorded, limit = LogProbs(), self._max_new_tokens(batch.inputs)
        with explain_memory_errors(
            f"a batch of {len(batch.rows)} utterances or pieces, together {sum(batch.seconds):.0f} s, does not fit "
            "into memory; let batches have fewer seconds (--batch-seconds, max_batch_seconds)"
        ):
            inputs, no_speech, languages = self.request.look(self.model, self._on_device(batch.inputs))
            sequences = self.request.generate(self.model, inputs, **self._options(recorded, inputs, limit))
        tokens = sequences[:, sequences.shape[1] - len(recorded.steps) :].cpu()  # (B, L), without the prompt
        log_probs = torch.stack(recorded.steps, dim=1).cpu()  # (B, L)
        config = self.model.generation_config
        end_ids, is_forced = config.eos_token_id, config.forced_eos_token_id is not None
        end_ids = torch.tensor([] if end_ids is None else end_ids).reshape(-1)
        texts = []
        for i, is_end in enumerate(torch.isin(tokens, end_ids)):
            length = int(is_end.int().argmax()) + 1 if is_end.any() else len(is_end)
            texts.append(
                GeneratedText(
                    text=self.request.text(tokens[i, :length]),
                    log_probs=log_probs[i, :length].tolist(),
                    # At the limit, an end token may be forced. Models without one end by themselves before.
                    is_complete=bool(is_end.any() or not len(end_ids)) and (length < limit or not is_forced),
                    no_speech_probability=None if no_speech is None else no_speech[i],
                    language_log_probs=None if languages is None else languages[i],
                    seconds=batch.seconds[i],
                )
            )
        return texts

    def _on_device(self, inputs: dict) -> dict:
        model = self.model
        return {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            if torch.is_tensor(value)
            else value
            for name, value in inputs.items()
        }

    def _options(self, recorded: LogProbs, inputs: dict, max_new_tokens: int) -> dict:
        """Returns the options of a greedy search."""
        config = self.model.generation_config
        options: dict[str, Any] = {name: None for name in OTHER_SEARCHES if getattr(config, name, None) is not None}
        options |= {"do_sample": False, "num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": False}
        # Training with gradient checkpointing leaves use_cache: false, which is many times as slow.
        options |= {"use_cache": True, "logits_processor": LogitsProcessorList([recorded])}
        if self.model.config.is_encoder_decoder:
            # Their settings have a max_length, beside which max_new_tokens gives a warning for each batch.
            return options | {"max_length": _prompt_length(inputs) + max_new_tokens}
        return options | {"max_new_tokens": max_new_tokens}

    def _max_new_tokens(self, inputs: dict) -> int:
        """Returns the longest length of a text: what the model's settings or its decoder's positions allow."""
        generation, config = self.model.generation_config, self.model.config
        limit = generation.max_new_tokens or MAX_NEW_TOKENS
        if not config.is_encoder_decoder:  # the prompt holds the audio, and there are positions for minutes of it
            return limit
        prompt = _prompt_length(inputs)
        if not generation.max_new_tokens and generation.max_length and generation.max_length > 20:  # 20: not chosen
            limit = generation.max_length - prompt
        decoder = config.get_text_config(decoder=True)
        positions = getattr(decoder, "max_target_positions", getattr(decoder, "max_position_embeddings", None))
        return min(limit, positions - prompt) if positions else limit

    def _make_hypothesis(self, row: int, batch: WindowBatch, texts: list[GeneratedText]) -> Hypothesis:
        """Joins the texts of an utterance's pieces, in their order, to its text and scores."""
        log_probs = list(chain.from_iterable(text.log_probs for text in texts))
        language, language_probability = None, None
        if texts[0].language_log_probs is not None:
            seconds = torch.tensor([text.seconds for text in texts])
            joined = join_language_log_probs(torch.stack([text.language_log_probs for text in texts]), seconds)
            language = self.request.languages[int(joined.argmax())]
            if batch.language is not None:
                language_probability = float(joined[self.request.languages.index(batch.language)].exp())
            language = batch.locale if language == batch.language else language
        no_speech = [text.no_speech_probability for text in texts if text.no_speech_probability is not None]
        return Hypothesis(
            row=row,
            text=join_texts([text.text for text in texts]),
            language=language,
            mean_log_prob=fsum(log_probs) / len(log_probs),
            blank_ratio=None,
            language_probability=language_probability,
            no_speech_probability=max(no_speech, default=None),
            is_complete=all(text.is_complete for text in texts),
            seconds=fsum(text.seconds for text in texts),
        )
