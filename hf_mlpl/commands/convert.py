"""`hf-mlpl convert`: checkpoints of other programs to model folders, and back."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from ..missing_model import check_checkpoint, check_model

HELP = "checkpoints of other programs to model folders, and back"
DESCRIPTION = """Makes a model folder of another program's checkpoint, or the other way round.

    # the released model, with the original's tokens file
    hf-mlpl convert --from flashlight --checkpoint checkpoint_cv_finetune.bin --tokens tokens-all.lst --output m-ctc-t

    # the same, and to the Hub with a card (log in with `hf auth login` first)
    hf-mlpl convert --from flashlight --checkpoint checkpoint_cv_finetune.bin --tokens tokens-all.lst \\
        --output m-ctc-t --push-to-hub me/m-ctc-t --license apache-2.0 --private

    # a model of transformers' old MCTCTForCTC, a folder or a Hub name
    hf-mlpl convert --from mctct --checkpoint speechbrain/m-ctc-t-large --output m-ctc-t

    # a checkpoint.bin that the original program reads, and its tokens file
    hf-mlpl convert --to flashlight --checkpoint runs/demo/final/model --output for-flashlight

A model folder is what `hf-mlpl transcribe --model` and transformers' `pipeline` take. It is written
whole or not at all, and an existing one is not touched. Memory holds the model once: 4.3 GB for the
released one.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    direction = parser.add_mutually_exclusive_group(required=True)
    direction.add_argument("--from", dest="source", choices=["flashlight", "mctct"], help="whose checkpoint it is")
    direction.add_argument("--to", dest="target", choices=["flashlight"], help="who is to read the result")
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="what to convert: with --from flashlight a .bin file, else a model's folder or Hub name",
    )
    parser.add_argument("--tokens", help="with --from flashlight: its tokens file, such as tokens-all.lst")
    parser.add_argument(
        "--languages",
        nargs="+",
        metavar="NAME",
        help="with --from flashlight: names of the language-ID head's classes, in order. No file has them: "
        "language_0, language_1 and so on where they are not given",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--push-to-hub", metavar="REPO", help="and upload it to this repository, such as me/my-model")
    parser.add_argument("--license", help="with --push-to-hub: of the weights, such as apache-2.0; their card has it")
    parser.add_argument("--private", action="store_true", help="make a new repository one that only you can see")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 0; raises `OSError` and `ValueError` for what cannot be read, converted, written or uploaded."""
    from huggingface_hub.utils import validate_repo_id
    from transformers.utils import logging

    if options.source == "flashlight" and options.tokens is None:
        parser.error("--from flashlight needs --tokens, the tokens file that the model was trained with")
    for name in ("tokens", "languages"):
        if options.source != "flashlight" and getattr(options, name) is not None:
            parser.error(f"--{name} is for --from flashlight")
    if options.target is not None and options.push_to_hub is not None:
        parser.error("--push-to-hub is for --from")
    if options.push_to_hub is None and (options.license is not None or options.private):
        parser.error("--license and --private are for --push-to-hub")
    if options.push_to_hub is not None:
        try:
            validate_repo_id(options.push_to_hub)
        except ValueError as error:
            parser.error(f"--push-to-hub: {error}")
        if not options.license:
            parser.error("--push-to-hub needs --license, the licence of the weights, such as apache-2.0")
    if options.output.exists():
        parser.error(f"--output {options.output} exists already; name a new folder, or delete it")

    logging.disable_progress_bar()
    if options.target is not None:
        _write_flashlight(options)
        return 0
    _write_folder(options)
    if options.push_to_hub is not None:
        _push(options)
    return 0


def _write_folder(options: argparse.Namespace) -> None:
    from ..atomic import atomic_write
    from ..interop.flashlight import read_checkpoint
    from ..interop.mctct import convert_mctct
    from ..model_card import converted_model_card

    if options.source == "flashlight":
        check_checkpoint(options.checkpoint, options.tokens)
        checkpoint = read_checkpoint(options.checkpoint, options.languages)
        model, processor = checkpoint.model, checkpoint.processor(options.tokens)
    else:
        check_model(options.checkpoint)
        model, processor = convert_mctct(options.checkpoint)
    with atomic_write(options.output) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        if options.push_to_hub is not None:
            card = converted_model_card(
                model, options.push_to_hub, options.license, options.checkpoint, options.source, options.languages
            )
            card.save(partial / "README.md")
    config = model.config
    print(
        f"{options.output}: {model.num_parameters():,} parameters, {config.num_hidden_layers} layers of "
        f"{config.hidden_size}, {config.vocab_size} classes, {len(config.languages)} languages\n"
        f"next: hf-mlpl transcribe --model {options.output} recording.wav"
    )


def _write_flashlight(options: argparse.Namespace) -> None:
    from transformers import AutoModelForCTC, AutoTokenizer

    from ..atomic import atomic_write
    from ..interop.flashlight import Checkpoint, write_checkpoint
    from ..modeling_mlpl import MlplForCTC

    check_model(options.checkpoint)
    model = AutoModelForCTC.from_pretrained(options.checkpoint, dtype="auto")
    if not isinstance(model, MlplForCTC):
        raise ValueError(f"{options.checkpoint}: is a model of type {model.config.model_type!r}, not of hf_mlpl")
    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    with atomic_write(options.output) as partial:
        partial.mkdir()
        write_checkpoint(Checkpoint.of(model, tokenizer.surround), partial / "checkpoint.bin")
        tokenizer.save_vocabulary(str(partial))
    print(
        f"{options.output}: checkpoint.bin and tokens-all.lst\n"
        f"next: fl_asr_test --am={options.output}/checkpoint.bin --tokens={options.output}/tokens-all.lst "
        "--arch=mling_large.so --lexicon=lexicon.txt --test=LIST --show"
    )


def _push(options: argparse.Namespace) -> None:
    from ..hub import push_folder

    command = shlex.join(["hf", "upload", options.push_to_hub, str(options.output)])
    commit = push_folder(
        options.output,
        options.push_to_hub,
        message="Convert with hf-mlpl",
        pending=f"{options.output} is complete",
        remedy=f"`{command}` pushes it",
        private=options.private,
    )
    print(f"pushed to {commit.repo_url}")
