"""Labels unlabelled speech with a model; the same command again continues an interrupted job.

    hf-mlpl pseudo-label --model runs/supervised/model --data data/unlabelled.parquet --output labels

writes labels/labels.parquet, which training reads like any utterance file, and then labels/complete.json. It needs no
texts. Each label comes with scores. The teacher is any CTC model, or any model of transformers that writes text:

    hf-mlpl pseudo-label --model openai/whisper-large-v3 --data data/unlabelled.parquet --output labels

Such a model is told the language of each utterance, and searches greedily. A text that does not end, as in a loop, is
no label. docs/teachers.md says how teachers differ.

A language model of the training texts may make better labels (docs/decoding.md says how to find out whether it does):

    hf-mlpl build-lm data/train.parquet --output lm
    hf-mlpl pseudo-label --model runs/supervised/model --lm lm --lm-weight 0.5 --data data/unlabelled.parquet \\
        --output labels-lm

The labels of each language are then found by beam search with lm/LANGUAGE.arpa, and their `source` names the language
models and the settings: labels of others need another folder. The labels of a weak teacher lack letters, and with a
language model they lack more, until each blank costs something: --blank-penalty is the one of 0 to 4 with which the
labels of three minutes of the speech are nearly as long as the teacher expects, unless you name it.

A teacher that has heard few people makes fewer mistakes if other people sound more like them. With the speech that it
has learned, --labelled data/train.parquet, it labels ten minutes in four ways: as the speech is; with the spectrum of
the labelled speech, for each speaker; with white noise; with both. Then it labels all of it in the way whose labels
are most like the transcripts, and `source` names it.

Utterances that cannot be read are counted, and listed in labels/unreadable.tsv; the same command again tries them
again. If most of them cannot be read, or if the labels have collapsed, which means that nearly all are empty or the
same text, the labels are written, and the exit status is 1. A GPU labels in bfloat16 by default, which changes a word
here and there (docs/teachers.md), and a CPU in float32. On several GPUs:

    accelerate launch -m hf_mlpl pseudo-label --model user/teacher-sl --data data/unlabelled.parquet --languages sl \\
        --output labels/sl --push-to-hub user/voxpopuli-pl

This also pushes the labels to the Hub, as the language `sl` of that data set; its other languages stay as they are.
If everything is labelled already, the command only pushes; `hf-mlpl publish-labels` does that without the model.

The same command on several machines that share a disk is one job: each process labels what no other one has begun, and
all of them end when the job is complete (docs/scale.md). Instead of a disk they may share object storage, as
--output s3://bucket/labels; install `s3fs` for s3://, `gcsfs` for gs://, `adlfs` for abfs://.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..remote_path import AnyPath
from .inference import (
    add_inference_arguments,
    add_search_arguments,
    check_search,
    greedy_line,
    search_trials,
    start_inference,
)

if TYPE_CHECKING:
    from datasets import Dataset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        help="folder or Hub name of the teacher: a CTC model, or one that writes text, such as Whisper",
    )
    parser.add_argument(
        "--data", nargs="+", required=True, help="utterance files; their texts are compared with the labels"
    )
    parser.add_argument("--languages", nargs="+", help="label only these languages; default: all in the files")
    parser.add_argument(
        "--labelled",
        nargs="+",
        metavar="FILE",
        help="utterance files that a CTC teacher has learned: it hears --data in the way whose labels are most like "
        "their transcripts; default: as it is",
    )
    parser.add_argument(
        "--output", required=True, help="folder for shards and labels.parquet, also s3://BUCKET/FOLDER"
    )
    add_inference_arguments(
        parser,
        "that of the labels begun in --output, else bfloat16 on a GPU that has it and float32 elsewhere",
    )
    add_search_arguments(parser, default_penalty="the one whose labels are nearly as long as expected")
    parser.add_argument("--push-to-hub", metavar="REPO", help="data set for the labels, such as user/voxpopuli-pl")
    add_push_arguments(parser)


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options for pushing labels, which `hf-mlpl publish-labels` also has."""
    parser.add_argument("--private", action="store_true", help="create the data set as private if it does not exist")
    parser.add_argument("--with-audio", action="store_true", help="push the audio, too: about 60 MB per hour")
    parser.add_argument("--filters", type=Path, help="YAML file of conditions that decide the column `kept`")
    add_allow_collapsed_argument(parser)


def add_allow_collapsed_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the option of all commands that would stop at labels that have collapsed."""
    parser.add_argument(
        "--allow-collapsed",
        "--allow-empty",  # its former name
        action="store_true",
        help="go on with labels that have collapsed: nearly all are empty or the same text",
    )


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..corpora.sources import sources_of
    from ..data.collapse import NOT_LEARNED, collapse_line
    from ..data.summary import languages_in
    from ..labels.blank_penalty import with_chosen_penalty
    from ..labels.chosen_hearing import with_chosen_hearing
    from ..labels.filters import DEFAULT_FILTERS, read_filters
    from ..labels.folder import UNREADABLE, collapse_of, unreadable_of
    from ..labels.labelling import pseudo_label
    from ..labels.publishing import push_label_set
    from ..remote_path import output_path
    from ..storage import shown

    options.output = output_path(options.output)
    check_search(options, parser)
    _check_labelled(options)
    filters = read_filters(options.filters) if options.filters else DEFAULT_FILTERS
    options.dtype = options.dtype or _default_dtype(options.output)
    accelerator, dataset, model, processor, revision = start_inference(options)
    batching, search, heard = (options.batch_seconds, options.num_workers), None, None
    if options.labelled and len(dataset):
        job = processor, dataset, _read_labelled(options, languages_in(dataset)), options.output, revision
        heard = with_chosen_hearing(accelerator, model, *job, options.batch_seconds)
    if options.lm is not None:
        from ..inference.label_search import load_search  # of an extra

        search = load_search(options.lm, processor.tokenizer, languages_in(dataset), *search_trials(options))
        if accelerator.is_main_process and (line := greedy_line(search)):
            print(line)
        if options.blank_penalty is None:
            search = with_chosen_penalty(
                search, accelerator, model, processor, dataset, options.output, revision, *batching, heard
            )
    job = accelerator, model, processor, dataset, options.output, revision
    summary = pseudo_label(*job, *batching, sources_of(options.data), search, heard)
    if accelerator.is_main_process:
        if not summary["utterances"]:
            raise ValueError(f"{', '.join(map(shown, options.data))}: no utterances to label")
        _report(summary, options)
        if problems := unreadable_of(summary):
            raise ValueError(
                f"{collapse_line(problems)}, see {options.output / UNREADABLE}; if the disk with the audio was not "
                "there, the same command again labels what it can read by then"
            )
        if options.push_to_hub:
            push_options = filters, options.with_audio, options.private, options.allow_collapsed
            for line in push_label_set(options.output, options.push_to_hub, *push_options):
                print(line, flush=True)
        elif (problems := collapse_of(summary)) and not options.allow_collapsed:
            raise ValueError(
                f"{collapse_line(problems)}: {NOT_LEARNED}; the labels are written, and --allow-collapsed makes them "
                "a success"
            )


def _check_labelled(options: argparse.Namespace) -> None:
    """Refuses `--labelled` for a model that generates text, before it is loaded, which may take minutes."""
    from ..ctc_models.loading import read_config
    from ..inference.generation import generates

    if options.labelled and generates(read_config(options.model)):
        raise ValueError(f"{options.model}: --labelled is for CTC models; this one is used without it")


def _read_labelled(options: argparse.Namespace, languages: Sequence[str]) -> Dataset:
    """Reads the speech of `--labelled` in some languages; raises a ValueError if it has no transcript."""
    from ..data.rows import blocks
    from ..data.utterances import read_utterances
    from ..storage import shown

    labelled = read_utterances(options.labelled, languages)
    if not any(block["text"].null_count < len(block) for block in blocks(labelled, ["text"])):
        raise ValueError(
            f"--labelled {', '.join(map(shown, options.labelled))}: has no transcript in {', '.join(languages)}; give "
            "the speech that the teacher has learned"
        )
    return labelled


def _default_dtype(output: AnyPath) -> str:
    """Returns the dtype of the labels that are begun in a folder, or else what is fast on this machine."""
    import torch

    from ..labels.folder import begun_job

    has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return begun_job(output).get("dtype", "bfloat16" if has_bfloat16 else "float32")


def _report(summary: dict, options: argparse.Namespace) -> None:
    """Prints what was labelled, and the command that shows it, with the utterance files if they have transcripts."""
    from ..data.conventions import describe_convention
    from ..storage import shown

    for language, counts in summary["languages"].items():
        cer = "" if counts["cer"] is None else f", CER {counts['cer']:.1%} against the known texts"
        mean = counts["mean_log_prob"]
        log_prob = "" if mean is None else f", mean log-probability {mean:.3f}"
        print(
            f"{language}: {counts['labels']} labels, {counts['hours']:.2f} h, {counts['empty']} empty{log_prob}{cer}"
        )
        if counts.get("convention", {}).get("texts"):
            print(f"{language}: {describe_convention(counts['convention'])}")
    path = options.output / "labels.parquet"
    print(f"labels: {path}, by {summary['teacher']}; {summary['errors']} utterances have no label")
    has_references = any(counts["cer"] is not None for counts in summary["languages"].values())
    references = ["--utterances", *map(shown, options.data)] if has_references else []
    print(f"next: {shlex.join(['hf-mlpl', 'report', shown(str(options.output)), *references])}")
