"""A stand-in of the Hugging Face Hub on this machine: repositories, commits, files and collections, as the real client asks.

    server = Hub(); HF_ENDPOINT=server.url HF_HOME=... python ...; server.repositories, server.asked
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from urllib.parse import unquote


class Hub:
    """Repositories by name, each a list of commits: (revision, path -> bytes). All requests are noted in `asked`."""

    def __init__(self):
        self.repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.collections: dict[str, list[str]] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def _do(self):
                hub.asked.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, content, headers = hub.answer(self.command, unquote(self.path.partition("?")[0]), body, self.headers)
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(content))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = _do

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Adds a commit with these files beside those of the one before; its revision."""
        commits = self.repositories.setdefault(repo, [])
        state = (commits[-1][1] if commits else {}) | files
        revision = hashlib.sha1(repr((repo, len(commits), sorted(state))).encode()).hexdigest()
        commits.append((revision, state))
        return revision

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repositories.get(repo, [])
        if revision == "main":
            return commits[-1] if commits else None
        return next((commit for commit in commits if commit[0] == revision), None)

    def answer(self, verb: str, path: str, body: bytes, headers) -> tuple[int, bytes, dict[str, str]]:
        """(status, content, headers)"""
        name = r"([\w.-]+/[\w.-]+)"
        if verb == "POST" and headers.get("Authorization") != "Bearer a-token":
            return self.error(401, "Invalid username or password.", "")
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted['organization']}/{wanted['name']}"
            if repo in self.repositories:
                return 409, json.dumps({"error": "You already created it", "url": f"{self.url}/{repo}"}).encode(), {}
            self.repositories[repo] = []
            return self.json({"url": f"{self.url}/{repo}", "name": repo})
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if match := re.fullmatch(rf"/api/models/{name}/preupload/main", path):
            files = json.loads(body)["files"]
            return self.json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        if match := re.fullmatch(rf"/api/models/{name}/commit/main", path):
            lines = [json.loads(line) for line in body.decode().splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            revision = self.commit(match[1], {f["path"]: base64.b64decode(f["content"]) for f in files})
            url = f"{self.url}/{match[1]}/commit/{revision}"
            return self.json({"success": True, "commitOid": revision, "commitUrl": url, "hookOutput": ""})
        if match := re.fullmatch(r"/api/collections/(.+)", path):
            return self.collection(match[1])
        if match := re.fullmatch(rf"/api/models/{name}(?:/revision/(.+))?", path):
            result = self.find(match[1], match[2] or "main")
            if result is None:
                return self.missing(match[1])
            siblings = [{"rfilename": file, "size": len(content)} for file, content in result[1].items()]
            return self.json({"id": match[1], "modelId": match[1], "sha": result[0], "siblings": siblings, "private": False})
        if match := re.fullmatch(rf"/{name}/resolve/([^/]+)/(.+)", path):
            result = self.find(match[1], match[2])
            if result is None:
                return self.missing(match[1])
            if match[3] not in result[1]:
                return self.error(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": result[0]})
            content = result[1][match[3]]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            return 200, content, {"ETag": etag, "X-Repo-Commit": result[0], "Content-Type": "application/octet-stream"}
        return self.error(404, "Not found", "")

    def collection(self, slug: str) -> tuple[int, bytes, dict[str, str]]:
        if slug not in self.collections:
            return self.error(404, "Collection not found", "")
        items = [{"_id": str(n), "id": repo, "type": "model", "position": n} for n, repo in enumerate(self.collections[slug])]
        items += [{"_id": "x", "id": "2601.00001", "type": "paper", "position": 99}]
        facts = {"slug": slug, "title": "a zoo", "owner": {"name": "someone"}, "items": items, "position": 0, "private": False}
        return self.json(facts | {"lastUpdated": "2026-01-01T00:00:00.000Z", "theme": "blue", "upvotes": 0})

    def missing(self, repo: str) -> tuple[int, bytes, dict[str, str]]:
        if self.repositories.get(repo):
            return self.error(404, "Revision not found", "RevisionNotFound")
        if repo in self.repositories:  # made, and without a commit
            return self.error(404, "Entry not found", "EntryNotFound")
        return self.error(404, "Repository not found", "RepoNotFound")

    def error(self, status: int, text: str, code: str, more: dict | None = None) -> tuple[int, bytes, dict[str, str]]:
        return status, json.dumps({"error": text}).encode(), {"X-Error-Code": code, "X-Error-Message": text} | (more or {})

    def json(self, content: dict) -> tuple[int, bytes, dict[str, str]]:
        return 200, json.dumps(content).encode(), {"Content-Type": "application/json"}
