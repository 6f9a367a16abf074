"""Holds one module for each command of `hf-mlpl`; `main` finds it by its name, `errors` reports what fails in it.

The docstring of a command's module is what `hf-mlpl COMMAND --help` prints. `add_arguments(parser)` adds its options,
and `run(options, parser)` makes one call of the library and prints the result. `run` returns the exit status, or None
for 0; it may raise `OSError`, `ValueError` and the other errors that `errors.describe` knows. The modules import only
what is light: what takes seconds to import, such as torch, is imported in `run`, so that `--help` need not wait.
"""
