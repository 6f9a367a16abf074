"""The commands of `hf-mlpl`: each module adds its parser, and runs what was parsed."""
