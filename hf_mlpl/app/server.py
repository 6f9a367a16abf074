"""Serves the page of the app until a signal ends it."""

from __future__ import annotations

import socket

import gradio as gr
from fastapi import FastAPI

from ..serving.server import run_server
from .page import appearance


def serve_app(page: gr.Blocks, server: socket.socket) -> None:
    """Answers requests on a bound socket until SIGTERM or SIGINT."""
    app = gr.mount_gradio_app(FastAPI(), page, path="/", run_history=False, **appearance())
    run_server(app, server)
