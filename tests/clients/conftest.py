"""Knows the marks of transformers' own tests, which its own settings would register."""

MARKS = "accelerate_tests flash_attn_test flash_attn_3_test flash_attn_4_test torch_compile_test"


def pytest_configure(config) -> None:
    for mark in MARKS.split():
        config.addinivalue_line("markers", f"{mark}: of transformers")
