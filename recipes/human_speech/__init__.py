"""Runs the recipe on people's speech of one language: see `recipes/human_speech/run.sh --help`."""
