"""MLflow stores for tests: a database copied from a template, a real server that can fail, and dead servers."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shared_folder import made_once
from werkzeug.serving import WSGIRequestHandler, make_server

from pipeline.tracking.mlflow_settings import configure_mlflow

FIRST_USE = """
from pathlib import Path
from pipeline.tracking.tracker import Tracker
tracker = Tracker(Path("run"), experiment="first use", run_name="r", params={})
tracker.log_metrics({"loss": 1}, 1)
tracker.close()
print(tracker.open_instructions())
Tracker(Path("left open"), experiment="first use", run_name="r", params={})
"""


def first_use() -> Path:
    """Return a folder in which FIRST_USE was run, and what it printed is in `out` and `err`. It takes seconds, once."""
    return made_once("first-use", _use)


def _use(folder: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", FIRST_USE]
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        subprocess.run(command, cwd=folder, env=environment, stdout=out, stderr=err, timeout=90, check=True)


def fresh_store(folder: Path) -> str:
    """Return the URI of a store in the folder, copied from that of the first use."""
    shutil.copy(first_use() / "mlflow.db", folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


class Quiet(WSGIRequestHandler):
    """No line per request."""

    def log_request(self, *_: object) -> None:
        """Say nothing."""


class Server:
    """MLflow's own server, which also keeps the artifacts; `mode` "ok", "hang" or "error" can be changed while it runs.

    `after` is called with the path of each request between its work and its answer.
    """

    def __init__(self, folder: Path):
        configure_mlflow()
        import mlflow
        from mlflow.server import app, handlers
        from mlflow.server.constants import ARTIFACTS_DESTINATION_ENV_VAR, SERVE_ARTIFACTS_ENV_VAR

        handlers._tracking_store = handlers._model_registry_store = handlers._artifact_repo = None
        os.environ |= {SERVE_ARTIFACTS_ENV_VAR: "true", ARTIFACTS_DESTINATION_ENV_VAR: str(folder / "artifacts")}
        handlers.initialize_backend_stores(fresh_store(folder), default_artifact_root="mlflow-artifacts:/")
        mlflow.set_tracking_uri(None)  # the handlers point the whole process at their own database
        self._app, self.mode = app, "ok"
        self.after: Callable[[str], None] = lambda path: None
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Quiet)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __call__(self, environ: dict, start_response: Callable) -> object:
        """Answer one request as `mode` says."""
        if self.mode == "hang":
            time.sleep(30)
        if self.mode != "ok":
            start_response("500 INTERNAL SERVER ERROR", [("Content-Type", "text/plain")])
            return [b"broken"]
        result = self._app(environ, start_response)
        self.after(environ["PATH_INFO"])
        return result

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def failing_server(kind: str) -> Iterator[str]:
    """Yield the URI of a server that never serves: "closed" port, "hanging", or "error" 500."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if kind == "closed":
            listener.close()
        else:
            listener.listen(50)
            threading.Thread(target=_serve, args=(listener, kind == "error"), daemon=True).start()
        yield uri


def _serve(listener: socket.socket, answers: bool) -> None:
    kept = []
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        kept.append(connection)
        if answers:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops")
            connection.close()
