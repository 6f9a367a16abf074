"""Holds a module for each command of `hf-mlpl`, with HELP, DESCRIPTION, `add_arguments(parser)` and `run`.

`run(options, parser)` returns the exit status, and raises what `one_line_errors.describe` makes one line of. To import
a module takes no time: what takes seconds to import, such as torch, is imported in `run`.
"""
