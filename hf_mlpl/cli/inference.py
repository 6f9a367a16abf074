"""Shares between commands the options of inference, and the start of a model."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from ..inference.precision import DTYPES, convert
from ..model.missing_model import OUR_TYPES, RELEASED_ON_HUB
from .download import announced
from .numbers import finite

SEARCH_SETTINGS = ("lm_weight", "word_score", "beam_size", "blank_penalty")

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from datasets import Dataset
    from tqdm import tqdm
    from transformers import AutomaticSpeechRecognitionPipeline, PreTrainedModel, ProcessorMixin

    from ..inference.ctc_recognizer import CtcRecognizer
    from ..inference.label_search import LabelSearch, SearchSettings
    from ..inference.transcription import Recording


def add_model_argument(parser: argparse.ArgumentParser, kind: str = "a model") -> None:
    """Adds the option `--model`, by default the released model, to a command that recognises speech."""
    parser.add_argument(
        "--model",
        default=RELEASED_ON_HUB,
        help=f"folder or Hub name of {kind}; default: {RELEASED_ON_HUB}, which transcribes 60 languages (4.2 GB, "
        "downloaded once)",
    )


def add_dtype_argument(parser: argparse.ArgumentParser, default: str = "float32, exact") -> None:
    """Adds the option `--dtype` to a command, whose default is the first word of `default`, if this is a dtype."""
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=name if (name := default.partition(",")[0]) in DTYPES else None,
        help="precision of the model: bfloat16 is several times as fast on a GPU, and on processors that support it; "
        f"int8, 8-bit weights, is for a CPU, and takes a third of the memory; default: {default}",
    )


def add_batch_seconds_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--batch-seconds` to a command."""
    parser.add_argument(
        "--batch-seconds",
        type=finite,
        help="seconds of audio in one forward pass; default: 200, on a CPU 50; of a model that writes text, such as "
        "Whisper, which counts 30 for each utterance, 480, on a CPU 240, or 120 to 480 by the size of a Whisper",
    )


def add_inference_arguments(parser: argparse.ArgumentParser, *default_dtype: str) -> None:
    add_dtype_argument(parser, *default_dtype)
    add_batch_seconds_argument(parser)
    parser.add_argument("--num-workers", type=int, help="processes that decode audio; default: up to 8, on a CPU none")


def add_search_arguments(
    parser: argparse.ArgumentParser, with_trials: bool = False, default_penalty: str = "0"
) -> None:
    """Adds the options of beam search over a whole data set.

    Args:
        with_trials: whether `--lm-weight` and `--blank-penalty` may be several, which are tried.
        default_penalty: says what `--blank-penalty` is by default.
    """
    several, best = ("+", "of several, the best by CER is used; ") if with_trials else (None, "")
    group = parser.add_argument_group("beam search with a language model (needs the extra lm)")
    group.add_argument(
        "--lm",
        metavar="FILE_OR_FOLDER",
        help="n-gram language model from `hf-mlpl build-lm`, in ARPA or KenLM's binary format; or a folder with one "
        "for each language, such as sl.arpa: languages without one stay greedy",
    )
    group.add_argument(
        "--lm-weight",
        type=finite,
        nargs=several,
        metavar="W",
        help=f"weight of the language model; {best}default: 0.5",
    )
    group.add_argument(
        "--blank-penalty",
        type=finite,
        nargs=several,
        metavar="NATS",
        help=f"cost of each blank, against missing letters, such as 1 or 2; {best}default: {default_penalty}",
    )
    group.add_argument("--word-score", type=finite, help="reward for each word, with a model of words; default: 0")
    group.add_argument("--beam-size", type=int, help="hypotheses kept after each frame; default: 50")


def check_search(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuses options of beam search that cannot work, before a model is loaded, which may take minutes.

    Raises:
        ImportError: if the extra is missing.
        ValueError: for a model that is none of hf_mlpl, such as one that generates text.
    """
    if options.lm is None:
        given = [name for name in SEARCH_SETTINGS if getattr(options, name) is not None]
        if given:
            parser.error(f"--{given[0].replace('_', '-')} is for --lm")
        return
    from ..ctc_models.loading import read_config
    from ..inference import label_search  # noqa: F401

    if (model_type := read_config(options.model).model_type) not in OUR_TYPES:
        raise ValueError(
            f"{options.model}: --lm is for CTC models of hf_mlpl; this one, of type {model_type}, is used without --lm"
        )


def search_trials(options: argparse.Namespace) -> list[SearchSettings]:
    """Returns the settings of `--lm` that are tried: each weight with each blank penalty."""
    from ..inference.label_search import SearchSettings

    given = {name: value for name in SEARCH_SETTINGS if (value := getattr(options, name)) is not None}
    values = [value if isinstance(value, list) else [value] for value in given.values()]
    return [SearchSettings(**dict(zip(given, trial, strict=True))) for trial in product(*values)]


def greedy_line(search: LabelSearch) -> str | None:
    """Returns a line on the languages that a search leaves greedy, if any."""
    if not search.greedy:
        return None
    return f"greedy, because --lm has no language model of them: {', '.join(search.greedy)}"


def start_inference(
    options: argparse.Namespace, any_language: bool = False
) -> tuple[Accelerator, Dataset, PreTrainedModel, ProcessorMixin, str]:
    """Reads `--data` and loads any `--model` that recognises speech, on a CPU if `--dtype` or the machine requires it.

    Returns the processes of `accelerate launch`, or this one; the utterances; the model, in `--dtype` and on this
    process's device; its processor; and the revision of its stored weights.

    Args:
        any_language: as `load_recognizer` has it.
    """
    import torch
    from accelerate import Accelerator

    from ..data.summary import languages_in
    from ..data.utterances import read_utterances
    from ..inference.recognition import load_recognizer
    from ..sharing.model_card import teacher_revision

    logging.basicConfig(format="%(message)s")
    accelerator = Accelerator(cpu=options.dtype == "int8" or not torch.accelerator.is_available())
    dataset = read_utterances(options.data, options.languages)
    with announced(options.model, is_shown=accelerator.is_main_process):
        model, processor = load_recognizer(options.model, languages_in(dataset), any_language)
    revision = teacher_revision(model, options.model)
    return accelerator, dataset, convert(model.to(accelerator.device), options.dtype), processor, revision


def load_pipeline(options: argparse.Namespace, **arguments) -> AutomaticSpeechRecognitionPipeline | CtcRecognizer:
    """Loads `--model`, a CTC model, into a pipeline, in `--dtype`; prints a line first if it is one of the Hub.

    Args:
        arguments: further ones of `pipeline`; of them a model of another architecture takes `language`, an adapter.
    """
    from transformers import pipeline

    from ..ctc_models.adapters import base_of
    from ..ctc_models.loading import read_config
    from ..inference.ctc_recognizer import CtcRecognizer
    from ..inference.loading import load_model
    from ..inference.recognition import adapter_of

    with announced(options.model):
        if (config := read_config(options.model)).model_type not in OUR_TYPES:
            locales = [arguments["language"]] if "language" in arguments else []
            recognize = CtcRecognizer(*load_model(options.model, adapter_of(options.model, config, locales)))
            recognize.model.to(_device(options))
        else:
            if options.dtype == "int8":
                arguments["device"] = "cpu"
            model = options.model
            if base_of(model) is not None:  # transformers loads adapters with some releases of peft alone
                model, processor = load_model(model)
                arguments |= {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
            recognize = pipeline("automatic-speech-recognition", model=model, **arguments)
    convert(recognize.model, options.dtype)
    return recognize


def _device(options: argparse.Namespace) -> torch.device:
    """Returns the device of a model without processes of `accelerate`."""
    import torch

    if options.dtype == "int8" or not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.accelerator.current_accelerator()


def line_on_files(files: Sequence[Path], what: str) -> str:
    """Returns a line that counts files in folders which a command leaves out, such as those that are `not audio`."""
    from ..inference.transcription import printable

    names = ", ".join(map(printable, files[:3]))
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return f"{len(files)} {'file is' if len(files) == 1 else 'files are'} {what}: {names}{more}"


def leave_out_finished(recordings: Sequence[Recording], options: argparse.Namespace) -> list[Recording]:
    """Returns the recordings whose file is not yet in `--output`; a line counts the others."""
    from ..inference.transcription import pending_recordings

    pending = pending_recordings(recordings, options.output, options.format)
    if len(pending) < len(recordings):
        print(f"{len(recordings) - len(pending)} skipped: already in {options.output}", file=sys.stderr)
    return pending


def deliver(make: Callable[[], str], name: str, path: Path | None, progress: tqdm) -> str | None:
    """Prints or writes the text that `make` returns; returns the reason, which begins with `name`, if it cannot.

    Args:
        path: file to write, None to print.
        progress: a bar, which printing does not disturb.
    """
    from ..atomic import write_text

    try:
        if path is None:
            progress.write(make(), file=sys.stdout, end="")
            sys.stdout.flush()
        else:
            write_text(path, make())
    except BrokenPipeError:  # nobody reads standard output any more
        raise
    except (OSError, ValueError) as error:  # ValueError: the terminal's encoding lacks a character
        return f"{name} cannot be written: {error}"
    return None
