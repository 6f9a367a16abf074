"""Folders with links are walked once, under their own names, and not in circles."""

import os
from pathlib import Path

from hf_mlpl.audio.folder_walk import walk_folders


def test_every_folder_is_visited_once(tmp_path):
    root, disk = tmp_path / "home" / "talks", tmp_path / "disk"
    for folder in (root / "z", root / ".versions" / "3", root / "__MACOSX", disk / "more"):
        folder.mkdir(parents=True)
        for name in ("a.wav", "._a.wav"):
            (folder / name).touch()
    links = {"a-link": root / "z", "linked": disk, "more": disk / "more", "now": root / ".versions" / "3", "self": "."}
    links |= {"file.wav": disk / "more" / "a.wav", "lost.wav": "nowhere", "loop.wav": "loop.wav"}
    for name, target in links.items():
        os.symlink(target, root / name)
    os.symlink(root.parent, disk / "back")  # on the disk it leads to a folder around the one that is searched
    skipped = []
    found = [Path(folder, name) for folder, _, names in walk_folders(root, skipped=skipped.append) for name in names]
    assert [str(file.relative_to(root)) for file in found] == [
        *("file.wav", "loop.wav", "lost.wav", "z/a.wav", "linked/more/a.wav", "now/a.wav")
    ]
    around, again = "a link to a folder around it, which is not followed", "another name of a folder that is read"
    for name, reason in (("self", around), ("linked/back", around), ("a-link", again), ("more", again)):
        assert sum(line.startswith(f"{root / name}: {reason}") for line in skipped) == 1
    assert len(skipped) == 4


def test_folders_that_the_caller_removes_are_not_visited(tmp_path):
    for name in ("a/b", "c"):
        (tmp_path / name).mkdir(parents=True)
    os.symlink(tmp_path / "c", tmp_path / "link")
    visited = []
    for folder, folders, _ in walk_folders(tmp_path):
        visited.append(os.path.relpath(folder, tmp_path))
        folders[:] = [name for name in folders if name not in ("c", "a")]
    assert visited == [".", "link"]


def test_a_missing_folder_is_reported(tmp_path):
    failed = []
    assert not list(walk_folders(tmp_path / "lost", failed.append))
    assert [type(error) for error in failed] == [FileNotFoundError]
