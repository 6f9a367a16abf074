"""Serves a model as OpenAI's API for transcription does (needs the extra serve).

    # listen on http://127.0.0.1:8000
    hf-mlpl serve --model runs/demo/final/model

    # for programs that ask for a model by this name, and from other machines only with a key
    export KEY=...
    hf-mlpl serve --model me/demo --name whisper-1 --host 0.0.0.0 --api-key-env KEY

Clients of OpenAI work with http://127.0.0.1:8000/v1 as their base URL. Transcripts are those of `hf-mlpl transcribe`,
as json, text, verbose_json (with the language, and the times of words or segments), srt or vtt. Requests that arrive
together are recognised in common batches. After SIGTERM or ^C the server answers the requests in work, takes no new
ones, and ends with exit status 0.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import shlex

from .inference import add_batch_seconds_argument, add_dtype_argument, add_model_argument, load_pipeline
from .numbers import finite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_argument(parser)
    parser.add_argument("--name", help="name of the model in requests; default: as --model names it")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1, for this machine alone"
    )
    parser.add_argument("--port", type=int, default=8000, help="port to listen on, or 0 for a free one; default: 8000")
    parser.add_argument(
        "--api-key-env", metavar="VARIABLE", help="environment variable with the key that requests must have"
    )
    parser.add_argument("--max-upload-mb", type=finite, default=200, help="size of an upload in MB; default: 200")
    parser.add_argument(
        "--max-requests",
        type=int,
        default=64,
        help="requests in work at a time, of which a long recording takes about 25 MB; more are answered with status "
        "503; default: 64",
    )
    add_batch_seconds_argument(parser)
    add_dtype_argument(parser)


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 0 after SIGTERM or SIGINT."""
    for option in ("max_upload_mb", "max_requests", "batch_seconds"):
        value = getattr(options, option)
        if value is not None and value <= 0:
            parser.error(f"--{option.replace('_', '-')} is {value}; it must be more than 0")
    api_key = None
    if options.api_key_env is not None and not (api_key := os.environ.get(options.api_key_env)):
        parser.error(f"--api-key-env: the environment variable {options.api_key_env} is not set, or empty")
    from transformers.utils import logging

    from ..serving.app import build_app
    from ..serving.server import bind, run_server, url_of

    name = options.name or options.model
    with bind(options.host, options.port) as server:  # before loading the model, which may take minutes
        logging.disable_progress_bar()
        app = build_app(
            _load(options),
            name,
            batch_seconds=options.batch_seconds,
            max_upload_mb=options.max_upload_mb,
            max_requests=options.max_requests,
            api_key=api_key,
        )
        server.listen()
        url = url_of(server)
        print(f"{name} is served on {url}; try", flush=True)
        key = "" if api_key is None else f' -H "Authorization: Bearer ${options.api_key_env}"'
        field = shlex.quote(f"model={name}")
        print(f"curl {url}/v1/audio/transcriptions{key} -F {field} -F file=@recording.wav", flush=True)
        if api_key is None and not ipaddress.ip_address(server.getsockname()[0]).is_loopback:
            print("warning: everybody who reaches this address can use it; --api-key-env asks for a key", flush=True)
        run_server(app, server)
    return 0


def _load(options: argparse.Namespace):
    from ..inference.pipeline_mlpl import MlplSpeechRecognitionPipeline

    recognize = load_pipeline(options)
    if not isinstance(recognize, MlplSpeechRecognitionPipeline):
        raise ValueError(f"{options.model}: is no model of hf_mlpl, but {recognize.model.config.model_type}")
    return recognize
