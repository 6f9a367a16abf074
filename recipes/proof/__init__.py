"""Measures what each part of the recipe, and each change of its settings, is worth: see `recipes/proof.sh --help`.

`variants` reads what shall be tried, and `plan` makes jobs of it, with `seed_jobs` and `label_jobs`. `jobs` runs them,
`scores` reads what they write, and `tables` compares it. All this is no part of the package, because it serves the
recipes alone.
"""
