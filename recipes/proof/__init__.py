"""Measures what each part of the recipe, and each change of its settings, is worth: see `recipes/proof.sh --help`.

`variants` reads what shall be tried, `plan` makes jobs of it, `jobs` runs them, `scores` reads what they write, and
`tables` compares it. All this is no part of the package, because it serves the recipes alone.
"""
