"""The commands of `hf-mlpl`: each module says what it does, adds its arguments, and runs what was parsed."""
