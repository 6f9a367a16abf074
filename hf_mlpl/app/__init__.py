"""Shows a model in a browser, with gradio."""
