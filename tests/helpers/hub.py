"""A small Hugging Face hub on this machine: the real client downloads from it, and it fails when it is told to.

A process uses it that has ``HF_ENDPOINT=hub.endpoint`` in its environment when it imports `huggingface_hub`, or passes
``endpoint=hub.endpoint``. The answers are those that huggingface_hub 2.4 reads; other than the real hub's, they send no
file by way of a redirect to elsewhere, and none from Xet storage.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import socket
import struct
import threading
import time
from collections import Counter, namedtuple
from contextlib import suppress
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

PYTHIA = Path(__file__).parents[3] / "shared" / "data" / "tokenizers" / "pythia_neox20b" / "20B_tokenizer.json"
TEXTS = ["Anna ran home, happy and glad.", "He felt sad and gloomy that day.", "They were angry, and mad at us."]
API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(refs|revision|tree|paths-info)(?:/([^/]+)(?:/(.+))?)?)?")
FILE = re.compile(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")  # data sets are served like models
REFUSALS = {"error", "missing", "forbidden"}  # faults that stand in an answer's place; the others spoil it
OPTIONS = {"after": 0, "reset": False, "keep": None, "seconds": 0.1, "chunk": 1 << 16, "status": 503, "headers": {}}
Faults = dict[str, SimpleNamespace]  # by kind
Revision = namedtuple("Revision", ["name", "commit", "files"], defaults=[None, None, {}])


class Blob:
    """A file of a revision, and what the hub calls it: a git hash, of a pointer when LFS keeps the file elsewhere."""

    def __init__(self, path: Path):
        data, self.lfs = path.read_bytes(), {}
        self.data = data
        if path.suffix in {".safetensors", ".bin"} or len(data) > 1_000_000:
            sha256 = hashlib.sha256(data).hexdigest()
            data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
            self.lfs = {"oid": sha256, "sha256": sha256, "pointerSize": len(data)}
        self.oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def content(self, faults: Faults) -> bytes:
        half = len(self.data) // 2
        if short := faults.get("short"):
            return self.data[: half if short.keep is None else short.keep]
        if "garbled" in faults:
            return self.data[:half] + bytes([self.data[half] ^ 0xFF]) + self.data[half + 1 :]
        return self.data


class Refused(Exception):
    """The hub says no: a status, a code that the client turns into a class of errors, a message, further headers."""


class Hub(ThreadingHTTPServer):
    """A hub at `endpoint` while its ``with`` block lasts; afterwards nothing listens there, nor on old connections."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[tuple[str, str, str | None]] = []  # method, path with query, range
        self.sent: Counter[tuple[str, str, str]] = Counter()  # bytes by repository, revision's name and file
        self.repos: dict[str, dict[str, Revision]] = {}  # by name; a commit is a name as well
        self.faults: list[tuple[tuple, SimpleNamespace]] = []  # of `fault`; cleared, the hub is well again
        self.lock, self.connections = threading.Lock(), []

    def __enter__(self) -> Hub:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        for connection in self.connections:  # clients keep theirs alive, and would still get answers
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def add(self, repo: str, revision: str, folder: Path) -> str:
        """Makes a revision of the folder's files as they now are; returns its commit. The first is also `main`."""
        files = {p.relative_to(folder).as_posix(): Blob(p) for p in sorted(Path(folder).rglob("*")) if p.is_file()}
        about = json.dumps([repo, revision, [(name, blob.oid) for name, blob in files.items()]])
        found = Revision(revision, hashlib.sha1(about.encode()).hexdigest(), files)
        self.repos.setdefault(repo, {"main": found}).update({revision: found, found.commit: found})
        return found.commit

    def fault(self, repo: str, revision: str | None, file: str | None, kind: str, **options) -> None:
        """From now on answers go wrong: those with a file whose name matches (``*`` is any) or, when `file` is None,
        all about the revision, listings too; when that is None as well, all about the repository.

        - ``cut``: the whole length is announced, and the connection closed (or `reset`) `after` bytes of the answer
        - ``missing``: there is no such thing, and listings have no such file either
        - ``forbidden``: the repository is gated (the real hub forbids files only, ``*``, not listings)
        - ``garbled``: the byte in the middle of the file is another one
        - ``short``: half of a file was uploaded, or `keep` bytes: all sizes are of that, its sha256 is of the whole
        - ``slow``: `seconds` pass before each `chunk` bytes
        - ``error``: the `status`, with `headers` such as Retry-After

        Cuts and errors happen to 1 answer, the others to all, unless `times` says how many; `method` spares the rest.
        """
        default = {"times": 1 if kind in {"cut", "error"} else math.inf, "method": None, **OPTIONS}
        if kind not in REFUSALS | {"cut", "garbled", "short", "slow"} or not options.keys() <= default.keys():
            raise ValueError(f"{kind} {options}")
        about = (repo, revision and self.repos[repo][revision].commit, file)
        self.faults.append((about, SimpleNamespace(kind=kind, **default | options)))

    def spoilt(self, method: str, repo: str, commit: str | None, file: str | None) -> Faults:
        """The faults of an answer; it uses them up. Method ``LIST`` asks what a listing says about a file."""
        found = {}
        with self.lock:
            for (its_repo, its_commit, pattern), fault in self.faults:
                about = its_repo == repo and its_commit in (None, commit) and fault.method in (None, method)
                about = about and (pattern is None or (file is not None and fnmatchcase(file, pattern)))
                used = method in {"GET", "POST"} or (method == "HEAD" and fault.kind in REFUSALS)
                seen = used or fault.kind in {"short", "missing"}  # a file has a size before its bytes are sent
                if about and seen and fault.times > 0 and fault.kind not in found:
                    found[fault.kind] = fault
                    fault.times -= used
        return found

    def find(self, request: Answers, repo: str, name: str = "", file: str = "") -> tuple[Revision, Faults]:
        """What the request is about, and the faults of the answer; one that stands in the answer's place is raised."""
        names = self.repos.get(repo, {})
        revision = names.get(name, Revision())
        faults = self.spoilt(request.command, repo, revision.commit, file or None)
        if error := faults.get("error"):
            raise Refused(error.status, "", "Injected by the test", error.headers)
        if "forbidden" in faults:
            raise Refused(403, "GatedRepo", f"Access to model {repo} is restricted", {})
        if not names or ("missing" in faults and not name):  # to strangers it may be private
            status = 404 if "Authorization" in request.headers else 401
            raise Refused(status, "RepoNotFound", "Repository not found", {})
        if name and (name not in names or ("missing" in faults and not file)):
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {name}", {})
        if file and ("missing" in faults or file not in revision.files):
            raise Refused(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": revision.commit})
        return revision, faults


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept alive, so that every answer must tell its length
    disable_nagle_algorithm = True

    def handle(self):
        self.server.connections.append(self.connection)
        with suppress(ConnectionError):  # a client that was killed
            super().handle()

    def log_message(self, *_): ...

    def do_GET(self):
        self.server.requests.append((self.command, self.path, self.headers["Range"]))
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"] or 0)).decode())
        url = urlsplit(self.path)
        try:
            if match := FILE.fullmatch(url.path):
                self._file(*map(unquote, match.groups()))
            elif match := API.fullmatch(url.path):
                self._listing(*(unquote(part or "") for part in match.groups()), form | parse_qs(url.query))
            else:
                raise Refused(404, "", "Sorry, we can't find the page you are looking for.", {})
        except Refused as no:
            status, code, message, headers = no.args
            self._send({"error": message}, {}, status, {"X-Error-Code": code, "X-Error-Message": message, **headers})

    do_HEAD = do_POST = do_GET

    def _listing(self, repo: str, what: str, name: str, path: str, query: dict[str, list[str]]):
        revision, faults = self.server.find(self, repo, "" if what == "refs" else name or "main")
        if what == "refs":
            found = [(n, r.commit) for n, r in self.server.repos[repo].items() if n != r.commit]
            refs = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": commit} for n, commit in found]
            return self._send({"branches": refs, "tags": [], "converts": []}, faults)
        entries = {}
        for file, blob in revision.files.items():
            spoilt = self.server.spoilt("LIST", repo, revision.commit, file)
            if "missing" not in spoilt:
                for name in map(Path.as_posix, list(Path(file).parents)[:-1]):
                    entries[name] = {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
                size = {"size": len(blob.content(spoilt))}
                entry = {"type": "file", "path": file, "rfilename": file, "oid": blob.oid, "blobId": blob.oid} | size
                entries[file] = entry | ({"lfs": blob.lfs | size} if blob.lfs else {})
        if what == "tree":
            if path and path not in entries:
                raise Refused(404, "EntryNotFound", f"{path} does not exist", {"X-Repo-Commit": revision.commit})
            inside = [entry for name, entry in entries.items() if name.startswith(path and f"{path}/")]
            if query.get("recursive") != ["true"]:
                inside = [entry for entry in inside if os.path.dirname(entry["path"]) == path]
            return self._send(inside, faults)
        if what == "paths-info":
            return self._send([entries[name] for name in query.get("paths", []) if name in entries], faults)
        keys = {"rfilename", "size", "blobId", "lfs"} if "blobs" in query else {"rfilename"}
        siblings = [{k: e[k] for k in keys & e.keys()} for e in entries.values() if e["type"] == "file"]
        self._send({"id": repo, "sha": revision.commit, "tags": [], "gated": False, "siblings": siblings}, faults)

    def _file(self, repo: str, name: str, file: str):
        revision, faults = self.server.find(self, repo, name, file)
        blob = revision.files[file]
        data, etag, status = blob.content(faults), f'"{blob.lfs.get("oid", blob.oid)}"', 200
        size = len(data)
        headers = {"X-Repo-Commit": revision.commit, "ETag": etag, "Accept-Ranges": "bytes"}
        headers |= {"X-Linked-Size": str(size), "X-Linked-Etag": etag} if blob.lfs else {}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or ""):
            start, stop = int(asked[1]), min(int(asked[2] or size - 1) + 1, size)
            if start >= stop:
                raise Refused(416, "", "Range not satisfiable", {"Content-Range": f"bytes */{size}"})
            status, data = 206, data[start:stop]
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._send(data, faults, status, headers, (repo, revision.name, file))

    def _send(self, answer: object, faults: Faults, status=200, headers: dict | None = None, file=None):
        slow, cut = faults.get("slow"), faults.get("cut")
        data = memoryview(answer if file else json.dumps(answer).encode())
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        data, chunk = data[: cut.after if cut else None], slow.chunk if slow else 1 << 20
        for start in range(0, len(data), chunk):
            time.sleep(slow.seconds if slow else 0)
            with self.server.lock:  # before the client has them, who may look at once
                self.server.sent.update({file: len(data[start : start + chunk])} if file else {})
            self.wfile.write(data[start : start + chunk])
        if cut:
            self.close_connection = True
            if cut.reset:  # so ends a socket that is closed and has no time to linger
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())


def ask(hub: Hub, monkeypatch, cache: Path) -> None:
    """This process's own client asks the hub, too, and has a cache of its own."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    resolve = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", resolve)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


def tiny_checkpoints(
    folder: Path, steps: list[int], architecture="gpt_neox", vocabulary=400, tokenizer=None, seed=0, width=32, layers=2
) -> dict[int, Path]:
    """A history of ordinary checkpoint folders by step: random weights on their way from one draw to another.

    A step's weights depend on the seed and the step only. `tokenizer` ``pythia`` is Pythia's where its file is there;
    in all other cases it is a byte-level BPE of at most `vocabulary` tokens.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    if tokenizer == "pythia" and PYTHIA.exists():
        bpe = Tokenizer.from_file(str(PYTHIA))
    else:
        bpe, bytewise = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.pre_tokenizer, bpe.decoder = bytewise, decoders.ByteLevel()
        kept = {"special_tokens": ["<|endoftext|>"], "initial_alphabet": bytewise.alphabet()}
        bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False, **kept))
    words = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    shape |= dict.fromkeys(["num_attention_heads", "num_key_value_heads"], max(width // 8, 1))
    shape |= {"max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    shape |= {"vocab_size": len(words), "initializer_range": 0.2}  # the usual 0.02 leaves so small a model no opinion
    usual = AutoConfig.for_model(architecture)
    config = AutoConfig.for_model(architecture, **{name: shape[name] for name in shape if hasattr(usual, name)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, last, model = (AutoModelForCausalLM.from_config(config) for _ in range(3))
    for step in steps:
        share = math.log2(1 + step) / 20  # histories are kept at steps about as far apart as their logarithms
        for weight, start, end in zip(*(each.parameters() for each in (model, first, last)), strict=True):
            weight.data = start.data.lerp(end.data, share)
        for part in (model, words):
            part.save_pretrained(Path(folder) / f"step{step}")
    return {step: Path(folder) / f"step{step}" for step in steps}
