"""Serves the page of the app until a signal ends it."""

from __future__ import annotations

import socket

import gradio as gr
from fastapi import FastAPI

from ..serving.server import run_server
from .page import appearance

GRACE_SECONDS = 1  # for requests at the end: one lasts as long as a page is open


def serve_app(page: gr.Blocks, server: socket.socket) -> None:
    """Answers requests on a socket that listens, until SIGTERM or SIGINT."""
    app = gr.mount_gradio_app(FastAPI(), page, path="/", **appearance())
    run_server(app, server, logs_requests=False, grace_seconds=GRACE_SECONDS)
