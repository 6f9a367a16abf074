"""Converts a checkpoint of another program to a model folder, or a model to another program's format.

    # the released model, with the original's tokens file
    hf-mlpl convert --from flashlight --checkpoint checkpoint_cv_finetune.bin --tokens tokens-all.lst --output m-ctc-t

    # the same, with the names of its languages, which `hf-mlpl name-languages` finds
    hf-mlpl convert --from flashlight --checkpoint checkpoint_cv_finetune.bin --tokens tokens-all.lst \\
        --languages languages.txt --output m-ctc-t

    # the same, and push it to the Hub with a card (log in with `hf auth login` first)
    hf-mlpl convert --from flashlight --checkpoint checkpoint_cv_finetune.bin --tokens tokens-all.lst \\
        --output m-ctc-t --push-to-hub me/m-ctc-t --license apache-2.0 --private

    # a model of transformers' former class MCTCTForCTC, from a folder or the Hub
    hf-mlpl convert --from mctct --checkpoint speechbrain/m-ctc-t-large --output m-ctc-t

    # to a checkpoint.bin that the original program reads, and its tokens file
    hf-mlpl convert --to flashlight --checkpoint runs/demo/final/model --output for-flashlight

    # to a graph for onnxruntime, which needs no PyTorch (conversion needs the extra onnx)
    hf-mlpl convert --to onnx --checkpoint runs/demo/final/model --output onnx

`hf-mlpl transcribe --model` and transformers' `pipeline` load a model folder. The output folder appears only when it
is complete, and an existing folder is never changed. Memory holds the model once: 4.3 GB for the released one.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..model.missing_model import check_checkpoint
from .download import announced

if TYPE_CHECKING:
    from ..model.modeling_mlpl import MlplForCTC
    from ..model.processing_mlpl import MlplProcessor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    direction = parser.add_mutually_exclusive_group(required=True)
    direction.add_argument("--from", dest="source", choices=["flashlight", "mctct"], help="format of the checkpoint")
    direction.add_argument("--to", dest="target", choices=["flashlight", "onnx"], help="format of the result")
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
        help="with --from flashlight: names of the language-ID head's classes, in order, or a file with one in each "
        "line, because the checkpoint does not have them; default: language_0 language_1 ...",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to create")
    parser.add_argument("--push-to-hub", metavar="REPO", help="repository to push the folder to, such as me/model")
    parser.add_argument("--license", help="with --push-to-hub: licence of the weights, such as apache-2.0")
    parser.add_argument("--private", action="store_true", help="create the repository as private if it does not exist")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from huggingface_hub.utils import validate_repo_id
    from transformers.utils import logging as transformers_logging

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

    transformers_logging.disable_progress_bar()
    if options.target is not None:
        {"flashlight": _write_flashlight, "onnx": _write_onnx}[options.target](options)
    else:
        _write_folder(options)
    if options.push_to_hub is not None:
        _push(options)


def _write_folder(options: argparse.Namespace) -> None:
    from ..atomic import atomic_write
    from ..interop.flashlight import read_checkpoint
    from ..interop.mctct import convert_mctct
    from ..sharing.endpoint import write_endpoint
    from ..sharing.model_card import converted_model_card

    names = options.languages
    if names is not None and len(names) == 1 and Path(names[0]).is_file():
        names = _read_names(Path(names[0]))
    if options.source == "flashlight":
        check_checkpoint(options.checkpoint, options.tokens)
        checkpoint = read_checkpoint(options.checkpoint, names)
        model, processor = checkpoint.model, checkpoint.processor(options.tokens)
    else:
        with announced(options.checkpoint):
            model, processor = convert_mctct(options.checkpoint)
    with atomic_write(options.output) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        if options.push_to_hub is not None:
            card = converted_model_card(
                model, options.push_to_hub, options.license, options.checkpoint, options.source, names
            )
            card.save(partial / "README.md")
            write_endpoint(partial)
    config = model.config
    print(
        f"{options.output}: {model.num_parameters():,} parameters, {config.num_hidden_layers} layers of "
        f"{config.hidden_size}, {config.vocab_size} classes, {len(config.languages)} languages\n"
        f"next: hf-mlpl transcribe --model {options.output} recording.wav"
    )


def _read_names(path: Path) -> list[str]:
    """Reads names of languages, one in a line."""
    try:
        return [name for line in path.read_text(encoding="utf-8-sig").splitlines() if (name := line.strip())]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text; a file with a language's name in each line is needed") from error


def _write_flashlight(options: argparse.Namespace) -> None:
    from ..atomic import atomic_write
    from ..interop.flashlight import Checkpoint, write_checkpoint

    model, processor = _load(options.checkpoint)
    with atomic_write(options.output) as partial:
        partial.mkdir()
        write_checkpoint(Checkpoint.from_model(model, processor.tokenizer.surround), partial / "checkpoint.bin")
        processor.tokenizer.save_vocabulary(str(partial))
    print(
        f"{options.output}: checkpoint.bin and tokens-all.lst\n"
        f"next: fl_asr_test --am={options.output}/checkpoint.bin --tokens={options.output}/tokens-all.lst "
        "--arch=mling_large.so --lexicon=lexicon.txt --test=LIST --show"
    )


def _write_onnx(options: argparse.Namespace) -> None:
    from ..interop.onnx import export_onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not installed
    warnings.simplefilter("ignore", FutureWarning)  # torch warns about its own code
    model, processor = _load(options.checkpoint, dtype="float32")  # like the features
    export_onnx(model, options.output, processor)
    print(
        f"{options.output}: model.onnx with its weights in model.onnx.data, and the files of its processor\n"
        "next, in Python, with `samples` at 16 kHz:\n"
        "    import onnxruntime\n"
        "    from hf_mlpl import MlplProcessor\n"
        f"    processor = MlplProcessor.from_pretrained({str(options.output)!r})\n"
        f"    session = onnxruntime.InferenceSession({str(options.output / 'model.onnx')!r})\n"
        '    inputs = processor(samples, sampling_rate=16000, return_tensors="np")\n'
        '    inputs["attention_mask"] = inputs["attention_mask"].astype("int64")\n'
        "    logits = session.run(None, dict(inputs))[0]\n"
        "    text = processor.decode(logits[0].argmax(-1))"
    )


def _load(name_or_path: str, dtype: str = "auto") -> tuple[MlplForCTC, MlplProcessor]:
    """Returns a model of hf_mlpl, by default in the dtype of its weights, and its processor; refuses other models."""
    from transformers import AutoModelForCTC, AutoProcessor

    from ..model.modeling_mlpl import MlplForCTC

    with announced(name_or_path):
        model = AutoModelForCTC.from_pretrained(name_or_path, dtype=dtype)
        if not isinstance(model, MlplForCTC):
            raise ValueError(f"{name_or_path}: is a model of type {model.config.model_type!r}, not of hf_mlpl")
        return model, AutoProcessor.from_pretrained(name_or_path)


def _push(options: argparse.Namespace) -> None:
    from ..sharing.hub import push_folder

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
