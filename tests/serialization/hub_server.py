"""A server on loopback with the few endpoints that the clients of hubs use."""

import base64
import contextlib
import hashlib
import http.server
import importlib
import json
import pathlib
import re
import threading
import urllib.parse


class Hub:
    """Repositories of Hugging Face, and models of Kaggle, in memory.

    Attributes:
        repositories: Dict from `"USER/NAME"` to dicts from commits, the last
            of which is `main`, to dicts from paths to bytes.
        versions: List of such dicts of files, the versions of one Kaggle
            model `"owner/model/keras/default"`.
        requests: List of strings, the lines of all requests.
        sizes: Dict from paths to the size to pretend.
    """

    def __init__(self):
        self.repositories = {}
        self.versions = []
        self.requests = []
        self.sizes = {}

    def commit(self, repository, files):
        """Adds files on top of `main`; the new commit."""
        commits = self.repositories.setdefault(repository, {})
        tree = {**(list(commits.values()) or [{}])[-1], **files}
        name = hashlib.sha1(str([repository, len(commits)]).encode())
        commits[name.hexdigest()] = tree
        return name.hexdigest()


def files_of(directory):
    """Dict from relative paths to the bytes of all files."""
    root = pathlib.Path(directory)
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


@contextlib.contextmanager
def serve(hub):
    """Runs the server; yields its URL."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def become_hugging_face(url, cache, monkeypatch):
    """Has `huggingface_hub` use this server, and this directory as its cache.

    As HF_ENDPOINT and HF_HUB_CACHE would, which the client has read when
    Keras imported it.
    """
    constants = importlib.import_module("huggingface_hub.constants")
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    template = template.replace(constants.ENDPOINT, url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setenv("HF_TOKEN", "of-nobody")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._resolve()

    def do_GET(self):
        self._resolve()

    def do_POST(self):
        path = self._path()
        body = self._body()
        if path == "/api/repos/create":
            made = json.loads(body)
            name = f"{made['organization']}/{made['name']}"
            self.hub.repositories.setdefault(name, {})
            self._json({"url": self._url(name), "name": name})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/(.+)", path):
            self._json(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "regular",
                            "shouldIgnore": False,
                        }
                        for file in json.loads(body)["files"]
                    ]
                }
            )
        elif match := re.fullmatch(r"/api/models/(.+)/commit/(.+)", path):
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(
                    line["value"]["content"]
                )
                for line in lines
                if line["key"] == "file"
            }
            commit = self.hub.commit(match[1], files)
            url = self._url(f"{match[1]}/commit/{commit}")
            self._json({"commitUrl": url, "commitOid": commit, "success": True})
        elif path.endswith("/GetModelInstance"):
            self._json({"versionNumber": len(self.hub.versions)})
        elif path.endswith("/DownloadModelInstanceVersion"):
            self._download(json.loads(body))
        else:
            self._send(404)

    def _url(self, path):
        return f"http://{self.headers['Host']}/{path}"

    def _path(self):
        self.hub.requests.append(f"{self.command} {self.path}")
        return urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _resolve(self):
        """A file of a repository of Hugging Face."""
        path = self._path()
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        commits = match and self.hub.repositories.get(match[1])
        if commits is None:
            self._send(401, {"X-Error-Code": "RepoNotFound"})
            return
        commit = list(commits)[-1] if match[2] == "main" else match[2]
        if commit not in commits:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
            return
        headers = {"X-Repo-Commit": commit}
        content = commits[commit].get(match[3])
        if content is None:
            headers["X-Error-Code"] = "EntryNotFound"
            self._send(404, headers)
            return
        headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        if match[3] in self.hub.sizes:
            headers["X-Linked-Size"] = str(self.hub.sizes[match[3]])
        self._send(200, headers, content)

    def _download(self, request):
        """A file of a version of the model of Kaggle."""
        number = request["versionNumber"]
        if not 0 < number <= len(self.hub.versions):
            self._send(404)
            return
        content = self.hub.versions[number - 1].get(request["path"])
        if content is None:
            self._send(404)
        else:
            self._send(200, {}, content)

    def _json(self, value):
        headers = {"Content-Type": "application/json"}
        self._send(200, headers, json.dumps(value).encode())

    def _send(self, status, headers=None, content=b""):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
