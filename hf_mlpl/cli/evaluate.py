"""Scores a model on labelled utterances: CER and WER of each language, and their means.

    hf-mlpl evaluate --model runs/final/model --data data/test.parquet --output results.json
    hf-mlpl evaluate --model runs/final/model --dataset google/fleurs --languages all --output fleurs.json

prints a table, and writes the same numbers to results.json, and the transcripts to results.hypotheses.parquet.
`hf-mlpl report results.json` makes a page of both.

The table has error rates of texts as they are written, and of normalised texts (norm.), in which capitals and
punctuation do not count, as on leaderboards; with 95 % intervals in brackets where there are 10 utterances or more.
--csv writes the numbers of each language as a table, and --trn the transcripts as sclite reads them. What was
transcribed once is scored again without a model:

    hf-mlpl evaluate --hypotheses results.hypotheses.parquet --output again.json --csv again.csv --trn again

and so are transcripts of other programs, in a Parquet file with the columns id, language, text (the reference),
hypothesis and duration_seconds, and perhaps speaker.

--dataset is the name of a test set, or its path: FLEURS (google/fleurs), Multilingual LibriSpeech
(facebook/multilingual_librispeech), VoxPopuli (facebook/voxpopuli), LibriSpeech (openslr/librispeech_asr), a release
of Common Voice on the disk, or any data set that `hf-mlpl prepare-data` reads. It is prepared once, in the folder
test-sets beside the output, and again only if it has changed:

    hf-mlpl evaluate --model M --dataset google/fleurs --languages sl sv-SE --output fleurs.json
    hf-mlpl evaluate --model M --dataset openslr/librispeech_asr --split test.clean --output clean.json
    hf-mlpl evaluate --model M --dataset cv-corpus-17.0-2024-03-15 --languages sl --output common-voice.json

A language model may make better transcripts, by beam search (docs/decoding.md). This tries weights, each with each
penalty on blanks, and writes the results of the best pair, which `hf-mlpl pseudo-label --lm` then takes; choose it on
dev, not on the test set:

    hf-mlpl build-lm data/train.parquet --output lm
    hf-mlpl evaluate --model M --data data/dev.parquet --lm lm --lm-weight 0.4 0.8 --blank-penalty 0 1 2 \\
        --output dev.json

Languages that the model does not know are scored, too, and a line names them. The model is any CTC model, or one that
writes text, such as Whisper; docs/teachers.md says how these differ. On several GPUs:

    accelerate launch -m hf_mlpl evaluate --model runs/final/model --data data/test.parquet --output results.json
"""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import asdict
from functools import partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from .columns import add_column_arguments, given_columns
from .inference import (
    SEARCH_SETTINGS,
    add_inference_arguments,
    add_search_arguments,
    check_search,
    greedy_line,
    search_trials,
    start_inference,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel, ProcessorMixin

    from ..evaluation.test_sets import PreparedSet
    from ..inference.label_search import SearchSettings
    from ..inference.recognition import LanguagesOfModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="folder or Hub name of a model; needed for all but --hypotheses")
    utterances = parser.add_mutually_exclusive_group(required=True)
    utterances.add_argument("--data", nargs="+", help="labelled utterance files")
    utterances.add_argument(
        "--dataset", metavar="NAME_OR_PATH", help="test set on the Hub, or a folder or file: google/fleurs"
    )
    utterances.add_argument("--hypotheses", type=Path, metavar="FILE", help="transcripts to score again, Parquet")
    parser.add_argument(
        "--languages", nargs="+", help="score only these languages, such as sl sv-SE; default: all, every one there is"
    )
    parser.add_argument(
        "--unseen-in", nargs="+", default=[], help="training files: score only sentences that none of them contains"
    )
    parser.add_argument("--output", type=Path, required=True, help="results file to write, JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each language, CSV")
    parser.add_argument("--trn", type=Path, metavar="FOLDER", help="write transcripts and references for sclite")
    add_inference_arguments(parser)
    add_search_arguments(parser, with_trials=True)
    group = parser.add_argument_group("test sets", "These are for --dataset.")
    group.add_argument("--split", help="split to read; default: test")
    group.add_argument(
        "--config",
        nargs="+",
        metavar="NAME",
        help="configurations to read, such as sl_si or en_accented; default: those of --languages",
    )
    group.add_argument("--language", help="language of all utterances, if the data set does not say it")
    add_column_arguments(group, ("recordings", "texts", "languages", "speakers"))


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    from ..corpora.sources import sources_of
    from ..data.rows import filter_rows
    from ..data.summary import languages_in
    from ..data.utterances import read_utterances
    from ..evaluation.hypotheses import hypotheses_path
    from ..evaluation.rescoring import rescore
    from ..inference.recognition import transcriber_of_languages
    from ..model.text import normalize_text

    if options.hypotheses is not None and os.environ.get("RANK", "0") != "0":
        return  # of `accelerate launch`, whose main process scores them
    _check_options(options, parser)
    check_search(options, parser)
    test_set = _test_set(options)
    seen = set()
    if options.unseen_in:
        seen = {normalize_text(text) for text in read_utterances(options.unseen_in)["text"][:] if text}
    if options.hypotheses is not None:
        results = rescore(options.hypotheses, options.output, options.languages, seen)
        settings = {"model": options.model} if options.model else {}
        settings |= {"unseen_in": options.unseen_in} if options.unseen_in else {}
        _write(options, results | settings)
        return
    accelerator, dataset, model, processor, revision = start_inference(options, any_language=True)
    languages = transcriber_of_languages(options.model, model, processor, languages_in(dataset))
    left_out = pa.array(languages.left_out, pa.string())
    dataset = filter_rows(dataset, ["language"], lambda block: ~pc.is_in(block["language"], left_out).to_numpy())
    for line in (*(test_set.lines if test_set else ()), *_lines_on(languages)) if accelerator.is_main_process else ():
        print(line)
    if seen:
        texts = dataset["text"][:]
        rows = [row for row, text in enumerate(texts) if text is None or normalize_text(text) not in seen]
        dataset = dataset.select(rows)
    evaluate = partial(_evaluate, options, accelerator, model, processor, dataset)
    trials = [] if options.lm is None else search_trials(options)
    tried = _try_searches(evaluate, trials, accelerator.is_main_process) if len(trials) > 1 else []
    rates = [trial["cer"] for trial in tried[1:]]
    best = trials[rates.index(min(rates))] if tried else next(iter(trials), None)
    results = evaluate(best, hypotheses_path(options.output))
    if results is not None:  # in the main process
        settings = {"model": options.model, "revision": revision, "dtype": options.dtype, "data": options.data}
        settings |= {"sources": [asdict(source) for source in sources_of(options.data)]}
        settings |= {"dataset": test_set and test_set.description, "unseen_in": options.unseen_in}
        settings |= {"unknown_languages": languages.unknown, "languages_left_out": languages.left_out}
        settings |= {"lm_trials": tried} if tried else {}
        _write(options, {**settings, **results})


def _evaluate(
    options: argparse.Namespace,
    accelerator: Accelerator,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    dataset: Dataset,
    settings: SearchSettings | None,
    transcripts: Path | None = None,
) -> dict | None:
    """Returns the results on the main process, and None on others.

    Args:
        settings: of the search with `--lm`; None for greedy transcripts.
        transcripts: file to write.
    """
    from tqdm import tqdm

    from ..data.summary import languages_in
    from ..evaluation.scoring import evaluate_model
    from ..inference.recognition import transcriber_of_languages

    locales = languages_in(dataset)
    search = None
    if settings is not None:
        from ..inference.label_search import load_search  # of an extra

        search = load_search(options.lm, processor.tokenizer, locales, settings)
    languages = transcriber_of_languages(options.model, model, processor, locales, search)
    share = len(range(accelerator.process_index, len(dataset), accelerator.num_processes))
    with tqdm(total=share, unit=" utterances", disable=not accelerator.is_main_process) as progress:
        results = evaluate_model(
            accelerator,
            model,
            processor,
            dataset,
            options.batch_seconds,
            options.num_workers,
            progress,
            transcripts,
            with_speed=transcripts is not None,
            transcribe=languages.transcribe,
        )
    if search is not None and results is not None:
        if transcripts is not None and (line := greedy_line(search)):
            print(line)
        results["lm"] = search.description
    return results


def _try_searches(
    evaluate: Callable[[SearchSettings | None], dict | None], trials: list[SearchSettings], is_shown: bool
) -> list[dict]:
    """Evaluates greedy transcripts and those of each search; returns their rates, greedy first, on all processes.

    Raises:
        ValueError: where no reference has a letter, so that there is no error rate to choose by.
    """
    from accelerate.utils import gather_object

    from ..text_table import aligned

    tried: list[dict] = []
    for trial in (*trials, None):  # a language model that cannot be used is an error at once
        [means, *_] = gather_object([(evaluate(trial) or {}).get("macro")])
        if means["cer"] is None:
            raise ValueError("no reference has a letter, so no weight is better than another; give one --lm-weight")
        settings = {name: trial and getattr(trial, name) for name in ("lm_weight", "blank_penalty")}
        tried.append({**settings, "cer": means["cer"], "wer": means["wer"]})
    tried.insert(0, tried.pop())
    if is_shown:
        rows = [[f"{rates[name]:.1%}" for name in ("cer", "wer")] for rates in tried]
        names = [("greedy", ""), *((f"{trial.lm_weight:g}", f"{trial.blank_penalty:g}") for trial in trials)]
        titles = ["lm weight", "blank penalty", "CER", "WER"]
        print(aligned([titles, *([*name, *row] for name, row in zip(names, rows, strict=True))]))
        if tried[0]["cer"] <= min(rates["cer"] for rates in tried[1:]):
            print("no search has a lower CER than greedy transcripts: leave --lm out")
    return tried


def _write(options: argparse.Namespace, results: dict) -> None:
    """Writes results, and what `--csv` and `--trn` ask for, and prints them."""
    from ..atomic import write_json, write_text
    from ..evaluation.hypotheses import hypotheses_path, read_hypotheses
    from ..evaluation.rescoring import write_trn
    from ..evaluation.speed_line import describe_speed
    from ..evaluation.tables import remarks_on, results_csv, results_table
    from ..storage import shown

    transcripts = hypotheses_path(options.output)
    results |= {name: list(map(shown, results[name])) for name in ("data", "unseen_in") if results.get(name)}
    write_json(options.output, results)
    print(results_table(results))
    print(*remarks_on(results), sep="\n")
    if results.get("speed"):
        print(f"speed: {describe_speed(results['speed'])}")
    print(f"results: {options.output}; transcripts: {transcripts}")
    if options.csv is not None:
        write_text(options.csv, results_csv(results))
        print(f"table: {options.csv}")
    if options.trn is not None:
        options.trn.mkdir(parents=True, exist_ok=True)
        write_trn(read_hypotheses(transcripts, results), options.trn)
        print(f"for sclite: {options.trn}")
    print(f"next: hf-mlpl report {shlex.quote(str(options.output))}")


def _check_options(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuses options that would have no effect, and outputs that would replace an input or each other.

    Transcripts may be scored again in their place.
    """
    from ..evaluation.hypotheses import hypotheses_path

    if "all" in (options.languages or ()):
        if len(options.languages) > 1:
            parser.error(f"--languages {' '.join(options.languages)}: all stands alone")
        options.languages = None
    if options.model is None and options.hypotheses is None:
        parser.error("--model is missing: the folder or Hub name of a model")
    of_model = ("dtype", "batch_seconds", "num_workers", "lm", *SEARCH_SETTINGS)
    if options.hypotheses is not None and any(getattr(options, name) != parser.get_default(name) for name in of_model):
        parser.error("--dtype, --batch-seconds, --num-workers, --lm are of a model, which --hypotheses does not run")
    of_test_set = (given_columns(options), options.split, options.config, options.language)
    if options.dataset is None and any(of_test_set):
        parser.error("--split, --config, --language and columns are of a test set, which --dataset names")
    transcripts = hypotheses_path(options.output)
    inputs = (*(options.data or ()), *options.unseen_in, options.dataset, options.hypotheses)
    taken = {Path(path).resolve() for name in inputs if name for path in glob(str(name))}
    if options.hypotheses is not None:
        taken.discard(transcripts.resolve())
    for path in filter(None, (options.output, transcripts, options.csv)):
        if path.resolve() in taken:
            parser.error(f"{path} would replace another file of this command; give --output or --csv another name")
        taken.add(path.resolve())
    if options.trn is not None and options.trn.exists() and not options.trn.is_dir():
        parser.error(f"--trn {options.trn}: is a file; a folder is accepted")


def _test_set(options: argparse.Namespace) -> PreparedSet | None:
    """Prepares the test set of `--dataset`, and lets `--data` be its files; returns None without one."""
    if options.dataset is None:
        return None
    from ..evaluation.test_set_corpora import SetRequest
    from ..evaluation.test_sets import prepare_test_set
    from ..model.missing_model import check_model

    check_model(options.model)  # before a long download
    languages, configs, columns = options.languages or (), options.config or (), given_columns(options)
    request = SetRequest(options.dataset, options.split or "test", languages, configs, options.language, columns)
    test_set = prepare_test_set(request, options.output.parent / "test-sets")
    options.data, options.languages = test_set.files, test_set.languages
    return test_set


def _lines_on(languages: LanguagesOfModel) -> Iterator[str]:
    if languages.unknown:
        yield f"the model does not know {', '.join(languages.unknown)}; they are scored all the same"
    if languages.left_out:
        yield f"left out, because the model cannot transcribe them: {', '.join(languages.left_out)}"
