"""Servers of trackers in a thread, which fail as they are told to."""

import json
import os
import socket
import threading
from contextlib import contextmanager

from werkzeug.serving import WSGIRequestHandler, make_server

FAULTS = ("refuses", "answers 500", "answers 401", "hangs", "takes it without a word")


class Faulty:
    """A WSGI application with a fault in front of it, or behind it."""

    def __init__(self, application):
        self.application = application
        self.fault = None
        self.requests = 0
        self.released = threading.Event()

    def __call__(self, environ, start_response):
        self.requests += 1
        if self.fault == "answers 500":
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        if self.fault == "answers 401":
            body = b"You are not authenticated."
            start_response("401 UNAUTHORIZED", [("Content-Length", str(len(body)))])
            return [body]
        if self.fault == "hangs":
            self.released.wait(30)
        answer = list(self.application(environ, start_response))
        if self.fault == "takes it without a word":
            self.released.wait(30)
        return answer


class _Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass


@contextmanager
def serving(application, port=0):
    """Its address, while the block lasts."""
    server = make_server("127.0.0.1", port, application, threaded=True, request_handler=_Quiet)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def mlflow_application(folder):
    """MLflow's own server on a database in a folder; one a process."""
    os.environ.update(
        MLFLOW_LOGGING_LEVEL="WARNING",  # read when it is imported; other tests are in this process
        _MLFLOW_SERVER_FILE_STORE=f"sqlite:///{folder}/server.db",
        _MLFLOW_SERVER_ARTIFACT_ROOT="mlflow-artifacts:/",
        _MLFLOW_SERVER_ARTIFACT_DESTINATION=f"{folder}/artifacts",
        _MLFLOW_SERVER_SERVE_ARTIFACTS="true",
    )
    from mlflow import MlflowClient
    from mlflow.server import app

    MlflowClient(f"sqlite:///{folder}/server.db").search_runs(["0"])  # makes its tables
    return app


class WandbApplication:
    """As much of W&B's interface as a run needs; it keeps lines of files by their numbers."""

    def __init__(self):
        self.files, self.uploads = {}, {}
        self.exit_codes, self.artifacts, self.used = [], [], []

    def __call__(self, environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if environ.get("HTTP_CONTENT_ENCODING") == "gzip":
            import gzip

            body = gzip.decompress(body)
        self.url = f"http://{environ['HTTP_HOST']}"
        answer = self._answer(environ["PATH_INFO"], body)
        content = json.dumps(answer).encode()
        start_response(
            "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        )
        return [content]

    @property
    def history(self):
        return [json.loads(line) for line in self.files.get("wandb-history.jsonl", [])]

    def _answer(self, path, body):
        if path.endswith("/file_stream"):
            return self._stream(json.loads(body))
        if path.startswith("/put/"):
            self.uploads[path.removeprefix("/put/")] = body
        if path == "/graphql":
            return {"data": self._query(json.loads(body))}
        return {}

    def _stream(self, message):
        for name, part in message.get("files", {}).items():
            lines = self.files.setdefault(name, [])
            lines[part["offset"] : part["offset"] + len(part["content"])] = part["content"]
        if message.get("complete"):
            self.exit_codes.append(message["exitcode"])
        return {"exitcode": None, "limits": {}}

    def _held(self):
        """What there is of the run to go on from."""
        if not self.history:
            return None
        return {
            "id": "bucket",
            "name": "behind",
            "summaryMetrics": self.files["wandb-summary.json"][-1],
            "displayName": "behind",
            "logLineCount": 0,
            "historyLineCount": len(self.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps(self.files["wandb-history.jsonl"][-1:]),
            "eventsTail": "[]",
            "config": "{}",
            "tags": [],
            "notes": "",
            "wandbConfig": json.dumps({"t": 1}),
        }

    def _query(self, message):
        query, variables = message["query"], message.get("variables") or {}
        if "upsertBucket" in query:
            name = variables.get("name") or variables.get("id")
            bucket = {
                "id": "bucket",
                "name": name,
                "displayName": name,
                "description": None,
                "config": None,
                "sweepName": None,
                "historyLineCount": len(self.history),
                "project": {"id": "p", "name": "scenes", "entity": {"id": "e", "name": "me"}},
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": not self.history}}
        if "ArtifactType" in query:
            return {"project": None}
        if "createArtifact(" in query:
            self.artifacts.append(variables)
            artifact = {"id": "artifact", "state": "COMMITTED", "artifactSequence": {"id": "s"}}
            return {"createArtifact": {"artifact": artifact}}
        if "useArtifact(" in query:
            self.used.append(variables)
            return {"useArtifact": {"artifact": {"id": "artifact"}}}
        if "createRunFiles" in query:
            places = [{"name": n, "uploadUrl": f"{self.url}/put/{n}"} for n in variables["files"]]
            return {"createRunFiles": {"runID": "bucket", "uploadHeaders": [], "files": places}}
        if "RunResumeStatus" in query:
            return {"model": {"id": "p", "name": "scenes", "bucket": self._held()}}
        return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}"}}
