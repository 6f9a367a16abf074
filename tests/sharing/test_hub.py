"""Tests pushes of folders with the real clients: the repository afterwards, and retries."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hf_mlpl.sharing import hub
from hf_mlpl.sharing.hub import push_folder

pytestmark = pytest.mark.usefixtures("quick_retries")

CARD = "---\nlicense: cc0-1.0\n---\n# Things\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "folder" / "old").mkdir(parents=True)
    (tmp_path / "folder" / "a.txt").write_text("a")
    (tmp_path / "folder" / "old" / "b.bin").write_bytes(b"\0" * 1000)
    (tmp_path / "folder" / "README.md").write_text(CARD)
    return tmp_path / "folder"


WORDS = {"message": "a push", "pending": "it is here", "remedy": "do that"}


def test_push_folder_replaces_and_moves_the_tag(local_hub, folder):
    first = push_folder(folder, "things", **WORDS, tag="v")
    assert first.repo_url == f"{local_hub.endpoint}/me/things" and first.oid == local_hub.commits("me/things")[0].oid
    assert push_folder(folder, "me/things", **WORDS, tag="v").oid == first.oid  # nothing is new
    shutil.move(folder / "old", folder / "new")
    second = push_folder(folder, "me/things", **WORDS, replaced=["old/", "other"], tag="v")
    assert local_hub.files("me/things").keys() == {".gitattributes", "README.md", "a.txt", "new/b.bin"}
    assert local_hub.repos["model", "me/things"].tags["v"].oid == second.oid != first.oid
    assert len(local_hub.commits("me/things")) == 3


def test_push_folder_beside_others(local_hub, folder, tmp_path):
    """Each push finds the repository missing and creates it, and finds that the others have committed."""
    barrier, names = threading.Barrier(4), "abcd"

    def push(name: str) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name)
        (tmp_path / name / "README.md").write_text(CARD)
        barrier.wait()
        return push_folder(tmp_path / name, "me/things", **WORDS).oid

    with ThreadPoolExecutor() as executor:
        oids = list(executor.map(push, names))
    assert {commit.oid for commit in local_hub.commits("me/things")[:-1]} == set(oids) and len(set(oids)) == 4
    assert local_hub.files("me/things").keys() == {".gitattributes", "README.md", *(f"{name}.txt" for name in names)}


def test_locks_and_partial_files_are_not_pushed(local_hub, folder):
    for name in (".lock", ".a.txt.lock", "old/.partial-0123abcd-7-012345-b.bin"):
        (folder / name).write_text("not for others")
    (folder / ".partial-things").mkdir()
    (folder / ".partial-things" / "c.txt").write_text("not for others")
    push_folder(folder, "me/things", **WORDS)
    assert local_hub.files("me/things").keys() == {".gitattributes", "README.md", "a.txt", "old/b.bin"}


@pytest.mark.parametrize(
    "card", [None, "# Things\n", "---\nlicense:\n---\n", "---\n[\n---\n", "---\nlicense: [\n---\n"]
)
def test_nothing_is_pushed_without_a_card_that_names_a_licence(card, local_hub, folder):
    (folder / "README.md").unlink()
    if card is not None:
        (folder / "README.md").write_text(card)
    with pytest.raises(ValueError, match="README.md: no card that names a licence, without which nothing is pushed"):
        push_folder(folder, "me/things", **WORDS)
    assert not local_hub.repos


@pytest.mark.parametrize(
    ("status", "retry_after", "tries"), [(400, None, 1), (403, None, 1), (404, None, 1), (429, 7, 1), (500, None, 7)]
)
def test_push_folder_retries_temporary_failures(status, retry_after, tries, local_hub, folder):
    push_folder(folder, "me/things", **WORDS)
    (folder / "a.txt").write_text("b")
    local_hub.fail("POST", "/commit/", status=status, retry_after=retry_after, times=100)
    with pytest.raises(OSError) as caught:
        push_folder(folder, "me/things", **WORDS)
    login = "give HF_TOKEN or `hf auth login` a token that may write to it, then " if status == 403 else ""
    message = f"me/things: cannot push to it (a test wants this to fail); it is here: {login}do that"
    assert str(caught.value) == message
    assert len([r for r in local_hub.requests if "/commit/" in r.path]) == 1 + tries


def test_a_reason_has_no_secrets():
    error = RuntimeError("https://storage/x?signature=abc refused\nBearer hf_abcdefghijkl.")
    assert hub.request_problem(error) == "https://storage refused Bearer [token]"
