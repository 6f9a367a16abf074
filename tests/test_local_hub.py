"""Tests the local Hub with the real clients: their requests, the answers and the errors that they raise."""

import hashlib
import random
import subprocess
import sys
from pathlib import Path

import datasets.config
import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCard,
    HfApi,
    HfFileSystem,
    constants,
    get_session,
    list_repo_files,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoModelForCTC, AutoProcessor, pipeline

from .random_model import LANGUAGES, RATE, save_folder, sweep

LARGE = random.Random(0).randbytes(12_000_000)  # more than the 10 MiB that the client writes at a time
TASK = "automatic-speech-recognition"


@pytest.fixture
def api(local_hub) -> HfApi:
    return HfApi()


@pytest.fixture
def repo(api) -> str:
    return api.create_repo("things").repo_id


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def statuses(local_hub, method: str, part: str) -> list[int | None]:
    """Returns the status of each request with that method and that part in its path."""
    return [request.status for request in local_hub.requests if request.method == method and part in request.path]


# Models


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_folder(tmp_path / "model", LANGUAGES)


def test_a_model_by_name(local_hub, api, folder):
    api.create_repo("me/tiny")
    commit = api.upload_folder(repo_id="me/tiny", folder_path=folder, commit_message="all of it")
    files = local_hub.files("me/tiny")
    assert files.pop(".gitattributes") and files == contents(folder)
    assert [(each.oid, each.title) for each in local_hub.commits("me/tiny")][0] == (commit.oid, "all of it")

    inputs = AutoProcessor.from_pretrained("me/tiny")(audio=sweep(2.0), sampling_rate=RATE)
    with torch.no_grad():
        ours, theirs = (AutoModelForCTC.from_pretrained(name)(**inputs).logits for name in ("me/tiny", folder))
    assert torch.equal(ours, theirs)
    assert pipeline(TASK, model="me/tiny")(sweep(2.0)) == pipeline(TASK, model=str(folder))(sweep(2.0))
    # in the caches of this Hub, and from no other place
    blobs = contents(Path(local_hub.settings["HF_HOME"])).values()
    assert files["model.safetensors"] in blobs and files["config.json"] in blobs


LOAD = """
import sys
import numpy as np
from transformers import pipeline
import hf_mlpl
print(pipeline("automatic-speech-recognition", model="me/tiny")(np.load(sys.argv[1]))["text"])
"""


def test_a_private_model_in_another_process(local_hub, api, folder, quick_python, tmp_path):
    api.create_repo("me/tiny", private=True)
    api.upload_folder(repo_id="me/tiny", folder_path=folder)
    np.save(tmp_path / "samples.npy", sweep(2.0))
    command = [quick_python, "-c", LOAD, tmp_path / "samples.npy"]
    done = subprocess.run(command, env=local_hub.env, capture_output=True, text=True)
    assert done.stdout.strip() == pipeline(TASK, model=str(folder))(sweep(2.0))["text"], done.stderr
    assert local_hub.token not in done.stderr
    users = {request.headers["user-agent"].partition("/")[0]: request.user for request in local_hub.requests}
    assert users["transformers"] == "me"


def test_push_to_hub(local_hub, api, folder):
    AutoModelForCTC.from_pretrained(folder).push_to_hub("tiny", private=True)
    AutoProcessor.from_pretrained(folder).push_to_hub("tiny", commit_message="and its processor")
    assert [commit.title for commit in local_hub.commits("me/tiny")][:2] == ["and its processor", "Upload MlplForCTC"]
    assert api.model_info("me/tiny").private
    assert pipeline(TASK, model="me/tiny")(sweep(2.0)) == pipeline(TASK, model=str(folder))(sweep(2.0))


def test_a_card_says_the_task(api, folder):
    (folder / "README.md").write_text(
        f"---\nlibrary_name: transformers\npipeline_tag: {TASK}\ntags: [speech]\n---\n# Tiny\n"
    )
    api.create_repo("me/tiny")
    api.upload_folder(repo_id="me/tiny", folder_path=folder)
    info = api.model_info("me/tiny")
    assert info.card_data.pipeline_tag == TASK and info.tags == ["speech"]
    assert pipeline(model="me/tiny").task == TASK
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.upload_file(repo_id="me/tiny", path_in_repo="README.md", path_or_fileobj=b"# Tiny\n")
    with pytest.raises(ValueError, match="Invalid metadata in README.md"):
        api.upload_file(repo_id="me/tiny", path_in_repo="README.md", path_or_fileobj=b"---\na: [\n---\n")


# Data sets


def test_a_data_set_and_its_revisions(local_hub, api):
    rows = [{"audio": bytes([0, 255, number]) * 1000, "text": f"ß {number}"} for number in range(3)]
    first = Dataset.from_list(rows[:2]).push_to_hub("me/speech", private=True)
    Dataset.from_list(rows).push_to_hub("me/speech")
    Dataset.from_list(rows[2:]).push_to_hub("me/speech", split="dev")
    assert len(local_hub.commits("me/speech", repo_type="dataset")) == 4
    assert load_dataset("me/speech", revision=first.oid, split="train").to_list() == rows[:2]
    assert load_dataset("me/speech", split="train").to_list() == rows
    assert list(load_dataset("me/speech", split="dev", streaming=True)) == rows[2:]

    api.create_tag("me/speech", tag="v1", revision=first.oid, repo_type="dataset")
    assert load_dataset("me/speech", revision="v1", split="train").to_list() == rows[:2]
    assert DatasetCard.load("me/speech").data["dataset_info"]["splits"][0]["num_examples"] == 3
    assert api.dataset_info("me/speech").private


def test_a_data_set_in_another_process(local_hub, quick_python):
    oid = Dataset.from_list([{"audio": b"\0\1\2"}]).push_to_hub("me/speech").oid
    load = f"import datasets; print(datasets.load_dataset('me/speech', revision='{oid}')['train'][0])"
    done = subprocess.run([quick_python, "-c", load], env=local_hub.env, capture_output=True, text=True)
    assert done.stdout == "{'audio': b'\\x00\\x01\\x02'}\n", done.stderr


# Repositories, commits and what they are called


def test_repositories(local_hub, api):
    assert api.whoami()["name"] == local_hub.user == "me"
    assert api.create_repo("me/a").url == f"{local_hub.endpoint}/me/a"
    assert api.create_repo("a", repo_type="dataset", private=True).url == f"{local_hub.endpoint}/datasets/me/a"
    assert api.create_repo("a", exist_ok=True).repo_id == "me/a"
    space = api.create_repo("a", repo_type="space", space_sdk="gradio")
    assert (
        space.url == f"{local_hub.endpoint}/spaces/me/a" and api.space_info("me/a").sha != api.model_info("me/a").sha
    )
    with pytest.raises(HfHubHTTPError, match="already created this model repo"):
        api.create_repo("a")
    assert api.repo_exists("me/a") and not api.repo_exists("me/b") and not api.repo_exists("me")
    assert api.list_repo_files("me/a") == [".gitattributes"]
    api.delete_repo("a")
    assert not api.repo_exists("me/a") and api.repo_exists("me/a", repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("a")


def test_revisions(local_hub, api, repo):
    def put(text: bytes, **options) -> str:
        return api.upload_file(repo_id=repo, path_in_repo="a.txt", path_or_fileobj=text, **options).oid

    def get(revision: str) -> bytes:
        return Path(api.hf_hub_download(repo, "a.txt", revision=revision)).read_bytes()

    one, two = put(b"one", commit_message="1"), put(b"two", commit_message="2")
    assert put(b"two", commit_message="none is made") == two
    api.create_tag(repo, tag="v/1", revision=one)
    api.create_branch(repo, branch="side", revision=one)
    three = put(b"three", revision="side", commit_message="3", commit_description="at length")
    by_revision = {one: b"one", two: b"two", three: b"three", "main": b"two", "v/1": b"one", "side": b"three"}
    assert {revision: get(revision) for revision in by_revision} == by_revision
    assert api.repo_info(repo, revision=one[:7]).sha == one
    assert [commit.title for commit in api.list_repo_commits(repo, revision="side")] == ["3", "1", "initial commit"]
    assert local_hub.commits(repo, "side")[0].message == "at length"
    refs = api.list_repo_refs(repo)
    names = {ref.name: ref.target_commit for ref in refs.branches + refs.tags}
    assert names == {"main": two, "side": three, "v/1": one}

    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        put(b"late", parent_commit=one)
    put(b"four", parent_commit=two)
    api.delete_branch(repo, branch="side")
    api.delete_tag(repo, tag="v/1")
    for revision in ("side", "v/1", "f" * 40):
        with pytest.raises(RevisionNotFoundError):
            api.repo_info(repo, revision=revision)
    with pytest.raises(RevisionNotFoundError):
        put(b"five", revision="side")


def test_listings_and_deletions(api, repo, tmp_path):
    files = {"a.txt": b"a", "d/b.bin": b"\0\1", "d/e/c.txt": b"c", "dd.txt": b""}
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    oid = api.upload_folder(repo_id=repo, folder_path=tmp_path).oid
    api.delete_file(".gitattributes", repo)
    assert not api.verify_repo_checksums(repo, local_dir=tmp_path).mismatches  # as the client sums up its files

    assert {entry.path for entry in api.list_repo_tree(repo)} == {"a.txt", "d", "dd.txt"}
    assert {entry.path for entry in api.list_repo_tree(repo, "d")} == {"d/b.bin", "d/e"}
    tree = {entry.path: entry for entry in api.list_repo_tree(repo, recursive=True, expand=True)}
    assert set(tree) == {*files, "d", "d/e"} and {entry.last_commit.oid for entry in tree.values()} == {oid}
    assert tree["d/b.bin"].lfs.size == 2 and tree["a.txt"].lfs is None
    assert tree["a.txt"].blob_id == "2e65efe2a145dda7ee51d1741299f848e5bf752e"  # printf a | git hash-object --stdin
    (found,) = api.get_paths_info(repo, ["d/b.bin", "lost"])
    assert found.blob_id == tree["d/b.bin"].blob_id
    sizes = {sibling.rfilename: sibling.size for sibling in api.model_info(repo, files_metadata=True).siblings}
    assert sizes == {path: len(content) for path, content in files.items()}
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(repo, "lost"))

    operations = [CommitOperationDelete("d/"), CommitOperationAdd("e.txt", b"e")]
    api.create_commit(repo, operations, commit_message="d is gone")
    assert set(api.list_repo_files(repo)) == {"a.txt", "dd.txt", "e.txt"}
    assert api.file_exists(repo, "d/b.bin", revision=oid) and not api.file_exists(repo, "d/b.bin")
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
        api.delete_file("d/b.bin", repo)
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(repo, "d/b.bin")


# Large files


@pytest.mark.parametrize(("part_bytes", "parts"), [(16_000_000, 0), (5_000_000, 3)])
def test_a_large_file(part_bytes, parts, local_hub, api, repo):
    local_hub.part_bytes = part_bytes
    api.upload_file(repo_id=repo, path_in_repo="large", path_or_fileobj=LARGE)
    assert local_hub.files(repo)["large"] == LARGE
    assert len(statuses(local_hub, "PUT", "/")) == max(parts, 1)
    assert Path(api.hf_hub_download(repo, "large")).read_bytes() == LARGE
    with HfFileSystem().open(f"{repo}/large", block_size=1000) as file:
        file.seek(-5, 2)
        assert file.read() == LARGE[-5:]
    kept = {request.user for request in local_hub.requests if local_hub.repos["model", repo].signature in request.path}
    assert kept == {None}  # no token goes to the storage, which would refuse it

    api.create_repo("other")
    api.upload_file(repo_id="me/other", path_in_repo="again", path_or_fileobj=LARGE)
    uploads = len(statuses(local_hub, "PUT", "/"))
    api.upload_file(repo_id="me/other", path_in_repo="and again", path_or_fileobj=LARGE)
    assert uploads == 2 * max(parts, 1) == len(statuses(local_hub, "PUT", "/"))  # it is not sent twice


def test_a_download_is_resumed(local_hub, api, repo):
    api.upload_file(repo_id=repo, path_in_repo="large", path_or_fileobj=LARGE)
    storage = local_hub.repos["model", repo].signature
    local_hub.fail("GET", storage, after=11_000_000)
    assert Path(api.hf_hub_download(repo, "large")).read_bytes() == LARGE
    ranges = [r.headers.get("range") for r in local_hub.requests if r.method == "GET" and storage in r.path]
    assert ranges == [None, f"bytes={10 * 2**20}-"]


def test_what_the_storage_refuses(local_hub, repo):
    client, content = get_session(), b"content"
    address = f"/{local_hub.repos['model', repo].signature}/{hashlib.sha256(content).hexdigest()}"
    answers = [
        client.get(local_hub.storage + address),
        client.put(local_hub.storage + address, content=b"other content"),
        client.put(
            local_hub.storage + address, content=content, headers={"Authorization": f"Bearer {local_hub.token}"}
        ),
        client.put(local_hub.storage + address.replace("/", "/0", 1), content=content),
        client.put(local_hub.storage + address, content=content),
    ]
    assert [answer.status_code for answer in answers] == [404, 400, 400, 403, 200]


def test_ranges(local_hub, api, repo):
    api.upload_file(repo_id=repo, path_in_repo="digits", path_or_fileobj=b"0123456789")

    def get(asked: str) -> tuple[int, bytes, str | None]:
        answer = get_session().get(f"{local_hub.endpoint}/{repo}/resolve/main/digits", headers={"Range": asked})
        return answer.status_code, answer.content, answer.headers.get("Content-Range")

    assert get("bytes=2-4") == (206, b"234", "bytes 2-4/10")
    assert get("bytes=8-99") == (206, b"89", "bytes 8-9/10")
    assert get("bytes=9-") == (206, b"9", "bytes 9-9/10")
    assert get("bytes=-3") == (206, b"789", "bytes 7-9/10")
    assert get("bytes=10-") == (416, b"", "bytes */10")


# Who may do what


def test_tokens(local_hub, api):
    api.create_repo("open")
    api.create_repo("secret", private=True)
    stranger, other, wrong = HfApi(token=False), HfApi(token=local_hub.add_user("you")), HfApi(token="hf_wrong")
    for reader in (stranger, other):
        assert reader.list_repo_files("me/open")
        with pytest.raises(RepositoryNotFoundError):
            reader.list_repo_files("me/secret")
        with pytest.raises(RepositoryNotFoundError):
            reader.hf_hub_download("me/secret", ".gitattributes")
    for status, writer in {401: stranger, 403: other}.items():
        with pytest.raises(HfHubHTTPError) as refused:
            writer.upload_file(repo_id="me/open", path_in_repo="a", path_or_fileobj=b"a")
        assert refused.value.response.status_code == status
    with pytest.raises(HfHubHTTPError, match="don't have the rights to create a dataset under the namespace"):
        other.create_repo("me/more", repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header"):
        wrong.list_repo_files("me/open")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        wrong.whoami()
    assert other.whoami()["name"] == "you"
    assert local_hub.commits("me/open")[0].title == "initial commit"
    recorded = str([vars(request) for request in local_hub.requests])
    assert "Bearer [token]" in recorded and local_hub.token not in recorded and "hf_wrong" not in recorded


# Failures


def test_a_failure_that_is_tried_again(local_hub, api, repo):
    local_hub.fail("POST", "/preupload/", status=503)
    api.upload_file(repo_id=repo, path_in_repo="a", path_or_fileobj=b"a")
    assert statuses(local_hub, "POST", "/preupload/") == [503, 200]


def test_a_connection_that_is_cut_in_the_middle_of_an_upload(local_hub, api, repo):
    local_hub.fail("PUT", "", received=2_000_000)
    api.upload_file(repo_id=repo, path_in_repo="large", path_or_fileobj=LARGE)
    sent = [(request.status, len(request.body)) for request in local_hub.requests if request.method == "PUT"]
    assert sent == [(None, 2_000_000), (200, len(LARGE))]
    assert local_hub.files(repo)["large"] == LARGE


def test_a_body_in_chunks_is_cut_too(local_hub, repo):
    address = f"{local_hub.storage}/{local_hub.repos['model', repo].signature}/{hashlib.sha256(LARGE).hexdigest()}"
    chunks = [LARGE[start : start + 1_000_000] for start in range(0, len(LARGE), 1_000_000)]
    local_hub.fail("PUT", "", received=2_500_000)
    with pytest.raises(HTTPError):
        get_session().put(address, content=iter(chunks))
    assert local_hub.requests[-1].body == LARGE[:2_500_000]
    assert get_session().put(address, content=iter(chunks)).status_code == 200


def test_an_answer_says_when_to_come_again(local_hub, repo):
    local_hub.fail("GET", f"/api/models/{repo}", status=429, retry_after=7)
    client, address = get_session(), f"{local_hub.endpoint}/api/models/{repo}"
    assert (answer := client.get(address)).status_code == 429 and answer.headers["Retry-After"] == "7"
    assert client.get(address).status_code == 200


def test_a_slow_answer(local_hub, repo):
    local_hub.delay("GET", f"/api/models/{repo}", 1.0)
    client, address = get_session(), f"{local_hub.endpoint}/api/models/{repo}"
    with pytest.raises(HTTPError, match="timed out"):
        client.get(address, timeout=0.2)
    assert client.get(address, timeout=5).status_code == 200  # while the other still waits
    local_hub.delay("GET", f"/api/models/{repo}", 600, times=5)
    local_hub.fail("GET", f"/api/models/{repo}", status=503)
    local_hub.recover()
    assert client.get(address, timeout=5).status_code == 200


def test_a_command_has_a_hub(tmp_path):
    program = "import huggingface_hub as h; print(h.HfApi().create_repo('a').repo_id, h.whoami()['name']); exit(3)"
    command = [sys.executable, "-m", "local_hub", sys.executable, "-c", program]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("me/a me\n", 3), done.stderr


@pytest.mark.parametrize(
    ("method", "path", "how", "error"),
    [
        ("POST", "/commit/", {"status": 500}, HfHubHTTPError),
        ("POST", "/commit/", {"received": 10}, HTTPError),
        ("POST", "/commit/", {"status": 400}, BadRequestError),
        ("POST", "/commit/", {}, HTTPError),  # of the client's HTTP library
        ("POST", "/commit/", {"after": 10}, HTTPError),
        ("PUT", "", {"status": 403}, RuntimeError),
    ],
)
def test_a_failure_that_ends_the_upload(method, path, how, error, local_hub, api, repo):
    local_hub.fail(method, path, **how)
    with pytest.raises(error):
        api.upload_file(repo_id=repo, path_in_repo="a.bin", path_or_fileobj=b"a")
    done = "a.bin" in local_hub.files(repo)
    assert done == ("after" in how)  # then it is only the answer that was lost
    api.upload_file(repo_id=repo, path_in_repo="a.bin", path_or_fileobj=b"a")
    assert local_hub.files(repo)["a.bin"] == b"a"


def test_clients_have_only_this_hub(local_hub, repo, monkeypatch):
    home = local_hub.settings["HF_HOME"]
    assert constants.ENDPOINT == datasets.config.HF_ENDPOINT == local_hub.endpoint
    assert {constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE} == {False} and constants.HF_HUB_DISABLE_XET
    for path in (constants.HF_HUB_CACHE, constants.HF_TOKEN_PATH, datasets.config.HF_DATASETS_CACHE):
        assert str(path).startswith(home)
    assert list_repo_files(repo) == [".gitattributes"]  # a function of the package, which has an HfApi of its own
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as the fixtures of the tone corpus do
    assert "HF_HUB_OFFLINE" not in local_hub.env
