"""Runs a Hugging Face Hub on this machine, in memory; the real clients push to it and load from it over HTTP.

It serves the requests of huggingface_hub, transformers and datasets, if HF_ENDPOINT names it and HF_HUB_DISABLE_XET
sends large files through LFS. As on the Hub, a storage server of another origin holds the contents of large files; it
is reached by signed addresses, and refuses requests with a token.

Pull requests, organizations, Spaces, Xet and git are missing, and a listing is one page.

    python -m local_hub make demo    # runs a command with this Hub, whose repositories are gone when the command ends
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import threading
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, unquote

import yaml

from .git import Blob, Commit, Repo
from .http import Answer, Fault, HubError, Request, Server

# Files that the .gitattributes of a new repository put into LFS; large and binary files go there, too.
LFS_PATTERNS = "*.arrow *.bin *.flac *.gz *.mp3 *.npy *.npz *.ogg *.onnx *.parquet *.pt *.safetensors *.tar *.wav"
REGULAR_BYTES = 10_000_000


class LocalHub:
    """Serves during its `with` block. The user "me" has the token `token`; clients keep their caches in `home`."""

    def __init__(self, home: Path):
        self.user, self.users = "me", {}
        self.token = self.add_user(self.user)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[Request] = []
        self.part_bytes = 16_000_000  # larger LFS files are uploaded in parts of this size
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        answers = [partial(self._answer, routes) for routes in (HUB_ROUTES, STORAGE_ROUTES)]
        self._servers = [Server(self.users.get, self._receive, answer) for answer in answers]
        self.endpoint, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        self.settings = {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets would count a download elsewhere
            "NO_PROXY": "127.0.0.1",
        }

    def __enter__(self) -> LocalHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    # For tests

    @property
    def env(self) -> dict[str, str]:
        """Returns the environment of a process that uses this Hub."""
        removed = ("HF_", "HUGGING", "TRANSFORMERS_OFFLINE", "no_proxy")
        return {name: value for name, value in os.environ.items() if not name.startswith(removed)} | self.settings

    def add_user(self, name: str) -> str:
        """Adds a user, and returns the token."""
        token = f"hf_{secrets.token_hex(17)}"
        self.users[token] = name
        return token

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        commit = self.repos[repo_type, repo_id].commit(revision)
        return {path: blob.content for path, blob in commit.files.items()}

    def commits(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> list[Commit]:
        """Returns the commits of a revision, the newest first."""
        return list(self.repos[repo_type, repo_id].commit(revision).history())

    def fail(
        self,
        method: str,
        path: str,
        *,
        times: int = 1,
        status: int | None = None,
        retry_after: int | None = None,
        received: int | None = None,
        after: int | None = None,
    ) -> None:
        """Makes the next `times` requests fail whose path contains the regular expression `path`.

        They are not executed, but answered with `status`, and with `retry_after` seconds as the header Retry-After.
        Without a status the connection is closed instead: at once; after `received` bytes of the request's body; or,
        once the request has been executed, after `after` bytes of the answer's body.
        """
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if status is None and after is None and received is None:
            received = 0
        self._faults.append(Fault(method, re.compile(path), times, status, headers, received, after))

    def delay(self, method: str, path: str, seconds: float, *, times: int = 1) -> None:
        """Delays the next `times` requests before they are executed."""
        self._faults.append(Fault(method, re.compile(path), times, delay=seconds))

    def recover(self) -> None:
        """Ends all faults, also those that have not occurred as often as they were to; begun requests keep theirs."""
        with self._lock:
            self._faults.clear()

    # Dispatch of a request to the method that answers it

    def _receive(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            fault = next((fault for fault in self._faults if fault.strikes(request)), None)
            if fault is not None:
                fault.times -= 1
            return fault

    def _answer(self, routes: list[Route], request: Request) -> Answer:
        method = "GET" if request.method == "HEAD" else request.method
        try:
            for route_method, pattern, function, access in routes:
                if route_method == method and (match := pattern.fullmatch(request.path)):
                    parts = {name: unquote(part) for name, part in match.groupdict(default="").items()}
                    with self._lock:  # held while the answer is computed, not while it is sent
                        return function(self, request, **self._admit(request, access, parts))
            raise HubError(404, f"the local Hub does not know {request.method} {request.path}")
        except HubError as error:
            return error.answer

    def _admit(self, request: Request, access: str, parts: dict[str, str]) -> dict[str, Repo | str]:
        """Checks a request's access; returns the parts of its path, with the repository in place of its name."""
        token_sent = "authorization" in request.headers
        if access == "signed":
            signature = parts.pop("signature")
            repo = next((repo for repo in self.repos.values() if repo.signature == signature), None)
            if token_sent:
                raise HubError(400, "Only one auth mechanism allowed")  # the message of S3
            if repo is None:
                raise HubError(403, "SignatureDoesNotMatch")
            return parts | {"repo": repo}
        if token_sent and request.user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        if access == "user" and request.user is None:
            raise HubError(401, "Invalid username or password.")
        if "repo" not in parts:
            return parts
        repo_type = (parts.pop("type").strip("/") or "models").removesuffix("s")
        return parts | {"repo": self._repo(request.user, repo_type, parts["repo"], access)}

    def _repo(self, user: str | None, repo_type: str, repo_id: str, access: str) -> Repo:
        repo = self.repos.get((repo_type, repo_id))
        owned = repo_id.partition("/")[0] == user
        if repo is None or (repo.private and not owned):
            # To strangers the Hub says 401 without the code, which the client then supplies if the address is https.
            status, message = (401, "Invalid username or password.") if user is None else (404, "Repository not found")
            raise HubError(status, message, "RepoNotFound")
        if access == "write" and not owned:
            raise HubError(401 if user is None else 403, f"You don't have the rights to write to {repo_id}")
        if access == "read" and repo.gated:
            message = f"Access to {repo_type} {repo_id} is restricted and you are not in the authorized list."
            raise HubError(401 if user is None else 403, message, "GatedRepo")
        return repo

    # Users and repositories

    def whoami(self, request: Request) -> Answer:
        token = {"role": "write", "displayName": "test"}
        return Answer.json({"type": "user", "name": request.user, "orgs": [], "auth": {"accessToken": token}})

    def validate_yaml(self, request: Request) -> Answer:
        card = Blob(request.json()["content"].encode())
        try:
            metadata = Commit("", "", "", {"README.md": card}).card_data()
        except yaml.YAMLError as error:
            raise HubError(400, "Invalid YAML", errors=[{"message": str(error)}]) from error
        empty = {"message": "empty or missing yaml metadata in repo card"}
        return Answer.json({"errors": [], "warnings": [] if metadata else [empty]})

    def create_repo(self, request: Request) -> Answer:
        content, (repo_type, repo_id) = request.json(), self._requested(request, "create")
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS.split())
        first = Commit("initial commit", "", request.user, {".gitattributes": Blob(attributes.encode())})
        private = content.get("visibility") == "private" or content.get("private", False)
        repo = Repo(repo_id, repo_type, private, {"main": first})
        url = self.endpoint + repo.url
        if (repo_type, repo_id) in self.repos:
            raise HubError(409, f"You already created this {repo_type} repo", url=url)
        self.repos[repo_type, repo_id] = repo
        return Answer.json({"url": url, "name": repo_id})

    def delete_repo(self, request: Request) -> Answer:
        repo_type, repo_id = self._requested(request, "delete")
        self._repo(request.user, repo_type, repo_id, "write")
        del self.repos[repo_type, repo_id]
        return Answer()

    def _requested(self, request: Request, verb: str) -> tuple[str, str]:
        content = request.json()
        repo_type, namespace = content.get("type") or "model", content.get("organization") or request.user
        if repo_type not in ("model", "dataset", "space"):
            raise HubError(400, f"the local Hub has no repositories of type {repo_type}")
        if repo_type == "space" and verb == "create" and content.get("sdk") != "gradio":
            raise HubError(400, f"the local Hub has no Spaces of sdk {content.get('sdk')}")
        if namespace != request.user:
            raise HubError(403, f"You don't have the rights to {verb} a {repo_type} under the namespace {namespace!r}")
        return repo_type, f"{namespace}/{content['name']}"

    # Contents of repositories

    def repo_info(self, request: Request, repo: Repo, revision: str = "main") -> Answer:
        commit = repo.commit(revision)
        siblings, card = [], commit.card_data()
        for path, blob in sorted(commit.files.items()):
            info = blob.info()
            lfs = {"lfs": {**info["lfs"], "sha256": blob.sha256}} if blob.lfs else {}
            details = {"size": info["size"], "blobId": blob.oid, **lfs} if "blobs" in request.query else {}
            siblings.append({"rfilename": path, **details})
        content = {
            "id": repo.id,
            "author": repo.id.partition("/")[0],
            "sha": commit.oid,
            "createdAt": list(commit.history())[-1].date,
            "lastModified": commit.date,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "disabled": False,
            "tags": card.get("tags") or [],
            "cardData": card,
            "siblings": siblings,
        }
        # `pipeline` without a task reads it. The Hub also guesses it from config.json.
        return Answer.json(content | {key: card[key] for key in ("pipeline_tag", "library_name") if key in card})

    def tree(self, request: Request, repo: Repo, revision: str, path: str = "") -> Answer:
        commit = repo.commit(revision)
        recursive, expand = (request.query.get(key) == ["true"] for key in ("recursive", "expand"))
        prefix = f"{path}/" if path else ""
        below = [name.removeprefix(prefix).split("/") for name in commit.files if name.startswith(prefix)]
        if path and not below:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        paths = {"/".join(parts[:depth]) for parts in below for depth in range(1, 1 + len(parts) if recursive else 2)}
        return Answer.json([commit.entry(prefix + name, expand) for name in sorted(paths)])

    def paths_info(self, request: Request, repo: Repo, revision: str) -> Answer:
        fields = parse_qs(request.body.decode())
        commit, expand = repo.commit(revision), fields.get("expand") == ["true"]
        paths = [path.strip("/") for path in fields.get("paths", [])]
        return Answer.json([commit.entry(path, expand) for path in paths if commit.under(path)])

    def refs(self, request: Request, repo: Repo) -> Answer:
        def listed(kind: str, refs: dict[str, Commit]) -> list[dict]:
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": c.oid} for name, c in refs.items()]

        branches, tags = listed("heads", repo.branches), listed("tags", repo.tags)
        return Answer.json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    def list_commits(self, request: Request, repo: Repo, revision: str) -> Answer:
        def listed(commit: Commit) -> dict:
            texts = {"title": commit.title, "message": commit.message, "date": commit.date}
            return {"id": commit.oid, "authors": [{"user": commit.user}], **texts}

        return Answer.json([listed(commit) for commit in repo.commit(revision).history()])

    def create_ref(self, request: Request, repo: Repo, branch: str = "", revision: str = "main") -> Answer:
        content = request.json()
        refs, name = (repo.branches, branch) if branch else (repo.tags, content["tag"])
        if name in refs:
            raise HubError(409, f"Reference already exists: {name}")
        refs[name] = repo.commit(content.get("startingPoint", revision))
        return Answer()

    def delete_ref(self, request: Request, repo: Repo, branch: str = "", tag: str = "") -> Answer:
        if (repo.branches if branch else repo.tags).pop(branch or tag, None) is None:
            raise HubError(404, f"Invalid rev id: {branch or tag}", "RevisionNotFound")
        return Answer()

    # Uploads: the way of each file, the contents of large ones, and the commit

    def preupload(self, request: Request, repo: Repo, revision: str) -> Answer:
        files = repo.commit(revision).files
        attributes = files[".gitattributes"].content.decode() if ".gitattributes" in files else ""
        patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]

        def mode(path: str, size: int, sample: str) -> dict:
            large = size > REGULAR_BYTES or b"\0" in base64.b64decode(sample)
            lfs = large or any(fnmatch(path.rpartition("/")[2], pattern) for pattern in patterns)
            known = {"oid": files[path].etag} if path in files else {}  # the client skips a file that has not changed
            return {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, **known}

        return Answer.json({"files": [mode(**file) for file in request.json()["files"]]})

    def lfs_batch(self, request: Request, repo: Repo) -> Answer:
        objects = [{"oid": each["oid"], "size": each["size"]} for each in request.json()["objects"]]
        for each in objects:
            oid, size = each["oid"], each["size"]
            upload = {"href": self._address(repo, oid)}
            if size > self.part_bytes:
                numbers = range(1, -(-size // self.part_bytes) + 1)
                parts = {str(number): f"{upload['href']}/{number}" for number in numbers}
                upload["header"] = {"chunk_size": str(self.part_bytes), **parts}
            if oid not in repo.objects:
                verify = {"href": f"{self.endpoint}{repo.url}.git/info/lfs/objects/verify"}
                each["actions"] = {"upload": upload, "verify": verify}
        return Answer.json({"transfer": "basic", "objects": objects})

    def _address(self, repo: Repo, oid: str) -> str:
        return f"{self.storage}/{repo.signature}/{oid}"

    def put_object(self, request: Request, repo: Repo, oid: str) -> Answer:
        return self._store(repo, oid, request.body)

    def put_part(self, request: Request, repo: Repo, oid: str, number: str) -> Answer:
        repo.parts.setdefault(oid, {})[int(number)] = request.body
        return Answer(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})

    def complete_parts(self, request: Request, repo: Repo, oid: str) -> Answer:
        parts = sorted(repo.parts.pop(oid).items())
        claimed = [(part["partNumber"], part["etag"].strip('"')) for part in request.json()["parts"]]
        if claimed != [(number, hashlib.md5(content).hexdigest()) for number, content in parts]:
            raise HubError(400, "One or more of the specified parts could not be found")
        return self._store(repo, oid, b"".join(content for _, content in parts))

    def _store(self, repo: Repo, oid: str, content: bytes) -> Answer:
        blob = Blob(content, lfs=True)
        if blob.sha256 != oid:
            raise HubError(400, "The SHA256 you specified did not match the calculated checksum")
        repo.objects[oid] = blob
        return Answer(headers={"ETag": f'"{oid}"'})

    def lfs_verify(self, request: Request, repo: Repo) -> Answer:
        oid, size = request.json()["oid"], request.json()["size"]
        if oid not in repo.objects or len(repo.objects[oid].content) != size:
            raise HubError(404, f"no LFS object {oid} of {size} bytes")
        return Answer.json({})

    def create_commit(self, request: Request, repo: Repo, revision: str) -> Answer:
        if "create_pr" in request.query:
            raise HubError(400, "the local Hub has no pull requests")
        if revision not in repo.branches:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        head = repo.branches[revision]
        header, *operations = (json.loads(line) for line in request.body.splitlines())
        summary = header["value"]
        if not head.oid.startswith(summary.get("parentCommit", "")):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for operation in operations:
            key, value = operation["key"], operation["value"]
            path = value["path"]
            if key == "file":
                files[path] = Blob(base64.b64decode(value["content"]))
            elif key == "lfsFile" and value["oid"] in repo.objects:
                files[path] = repo.objects[value["oid"]]
            elif key == "lfsFile":
                raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")
            else:  # deletedFile, deletedFolder
                deleted = head.under(path.rstrip("/"))
                if not deleted or (key == "deletedFile" and path not in deleted):
                    raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                files = {name: blob for name, blob in files.items() if name not in deleted}
        commit = Commit(summary["summary"], summary["description"], request.user, files, head)
        repo.branches[revision] = commit
        url = f"{self.endpoint}{repo.url}/commit/{commit.oid}"
        return Answer.json({"success": True, "commitOid": commit.oid, "commitUrl": url})

    # Downloads

    def resolve(self, request: Request, repo: Repo, revision: str, path: str) -> Answer:
        commit = repo.commit(revision)
        headers = {"X-Repo-Commit": commit.oid}
        if path not in commit.files:
            error = HubError(404, "Entry not found", "EntryNotFound")
            error.answer.headers |= headers  # by which the client caches that the file is missing
            raise error
        blob = commit.files[path]
        if not blob.lfs:
            return self._content(request, blob, headers)
        linked = {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        return Answer(302, headers={**headers, **linked, "Location": self._address(repo, blob.sha256)})

    def get_object(self, request: Request, repo: Repo, oid: str) -> Answer:
        if oid not in repo.objects:
            raise HubError(404, "The specified key does not exist.")
        return self._content(request, repo.objects[oid], {})

    def _content(self, request: Request, blob: Blob, headers: dict[str, str]) -> Answer:
        """Answers with a blob, or its requested range: `bytes=100-199`, `bytes=100-`, or `bytes=-100` for the end."""
        headers = {**headers, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        size = len(blob.content)
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
        if match is None:
            return Answer(200, blob.content, headers)
        first, last = match.groups()
        start, end = (int(first), int(last or size - 1)) if first else (max(size - int(last), 0), size - 1)
        if start >= size:
            return Answer(416, headers={"Content-Range": f"bytes */{size}"})
        content_range = f"bytes {start}-{min(end, size - 1)}/{size}"
        return Answer(206, blob.content[start : end + 1], {**headers, "Content-Range": content_range})


Route = tuple[str, re.Pattern, Callable[..., Answer], str]


def route(method: str, path: str, function: Callable[..., Answer], access: str) -> Route:
    patterns = {"type": "models|datasets|spaces", "repo": "[^/]+?(?:/[^/]+?)?", "path": ".+"}
    path = path.replace("[type/]", "(?P<type>datasets/|spaces/)?").replace(".git", r"\.git")
    named = re.sub(r"\{(\w+)\}", lambda match: f"(?P<{match[1]}>{patterns.get(match[1], '[^/]+')})", path)
    return method, re.compile(named), function, access


HUB_ROUTES = [
    route("GET", "/api/whoami-v2", LocalHub.whoami, "user"),
    route("POST", "/api/validate-yaml", LocalHub.validate_yaml, "read"),
    route("POST", "/api/repos/create", LocalHub.create_repo, "user"),
    route("DELETE", "/api/repos/delete", LocalHub.delete_repo, "user"),
    route("GET", "/api/{type}/{repo}", LocalHub.repo_info, "read"),
    route("GET", "/api/{type}/{repo}/revision/{revision}", LocalHub.repo_info, "read"),
    route("GET", "/api/{type}/{repo}/tree/{revision}", LocalHub.tree, "read"),
    route("GET", "/api/{type}/{repo}/tree/{revision}/{path}", LocalHub.tree, "read"),
    route("POST", "/api/{type}/{repo}/paths-info/{revision}", LocalHub.paths_info, "read"),
    route("GET", "/api/{type}/{repo}/refs", LocalHub.refs, "read"),
    route("GET", "/api/{type}/{repo}/commits/{revision}", LocalHub.list_commits, "read"),
    route("GET", "/[type/]{repo}/resolve/{revision}/{path}", LocalHub.resolve, "read"),
    route("POST", "/api/{type}/{repo}/branch/{branch}", LocalHub.create_ref, "write"),
    route("DELETE", "/api/{type}/{repo}/branch/{branch}", LocalHub.delete_ref, "write"),
    route("POST", "/api/{type}/{repo}/tag/{revision}", LocalHub.create_ref, "write"),
    route("DELETE", "/api/{type}/{repo}/tag/{tag}", LocalHub.delete_ref, "write"),
    route("POST", "/api/{type}/{repo}/preupload/{revision}", LocalHub.preupload, "write"),
    route("POST", "/api/{type}/{repo}/commit/{revision}", LocalHub.create_commit, "write"),
    route("POST", "/[type/]{repo}.git/info/lfs/objects/batch", LocalHub.lfs_batch, "write"),
    route("POST", "/[type/]{repo}.git/info/lfs/objects/verify", LocalHub.lfs_verify, "write"),
]
STORAGE_ROUTES = [
    route("PUT", "/{signature}/{oid}", LocalHub.put_object, "signed"),
    route("PUT", "/{signature}/{oid}/{number}", LocalHub.put_part, "signed"),
    route("POST", "/{signature}/{oid}", LocalHub.complete_parts, "signed"),
    route("GET", "/{signature}/{oid}", LocalHub.get_object, "signed"),
]
