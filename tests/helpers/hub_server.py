"""A hub of one model on this machine: what its client asks of a folder of files."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_of(name, folder):
    """Serve `folder` as the model `name`; yields the address and the list of files sent."""
    files = {p.relative_to(folder).as_posix(): p for p in Path(folder).rglob("*") if p.is_file()}
    sent = []

    class Hub(BaseHTTPRequestHandler):
        def reply(self, body, **headers):
            self.send_response(200)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self):
            path = self.path.split("?")[0]
            listed = [
                {"rfilename": n, "path": n, "type": "file", "oid": COMMIT, "size": p.stat().st_size}
                for n, p in files.items()
            ]
            place = next((n for n in files if path == f"/{name}/resolve/{COMMIT}/{n}"), None)
            if path.startswith(f"/api/models/{name}/tree/"):
                self.reply(json.dumps(listed).encode(), Content_Type="application/json")
            elif path.startswith(f"/api/models/{name}"):
                facts = {
                    "id": name,
                    "sha": COMMIT,
                    "siblings": listed,
                    "private": False,
                    "tags": [],
                }
                self.reply(json.dumps(facts).encode(), Content_Type="application/json")
            elif place:
                body = files[place].read_bytes()
                if self.command == "GET":
                    sent.append(place)
                tag = f'"{hashlib.sha1(body).hexdigest()}"'
                self.reply(body, X_Repo_Commit=COMMIT, ETag=tag)
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", sent
        finally:
            server.shutdown()
