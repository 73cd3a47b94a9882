"""MLflow stores for tests: a database copied from a template, a real server that can fail, and servers that only fail."""

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from werkzeug.serving import WSGIRequestHandler, make_server

from pipeline.mlflow_run import configure_mlflow


@cache
def template() -> Path:
    """Return an empty database with MLflow's tables; making one takes seconds, copying it none."""
    configure_mlflow()
    from mlflow import MlflowClient

    path = Path(mkdtemp()) / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def fresh_store(folder: Path) -> str:
    """Return the URI of an empty store in the folder."""
    shutil.copy(template(), folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


class Quiet(WSGIRequestHandler):
    """No line per request."""

    def log_request(self, *_: object) -> None:
        """Say nothing."""


class Server:
    """MLflow's own server over a database; `mode` "ok", "hang" or "error" can be changed while it runs.

    `after_write`, where set, is called with the path of each request that was answered.
    """

    def __init__(self, folder: Path):
        from mlflow.server import app, handlers

        handlers._tracking_store = handlers._model_registry_store = None
        handlers.initialize_backend_stores(fresh_store(folder), default_artifact_root=str(folder / "mlruns"))
        self._app, self.mode = app, "ok"
        self.after: Callable[[str], None] = lambda path: None
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Quiet)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        self.database = f"sqlite:///{folder / 'mlflow.db'}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __call__(self, environ: dict, start_response: Callable) -> object:
        """Answer one request as `mode` says."""
        if self.mode == "hang":
            time.sleep(30)
        if self.mode != "ok":
            start_response("500 INTERNAL SERVER ERROR", [("Content-Type", "text/plain")])
            return [b"broken"]
        answer = self._app(environ, start_response)
        self.after(environ["PATH_INFO"])
        return answer

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def failing_server(kind: str) -> Iterator[str]:
    """Yield the URI of a server that never serves: "closed" port, "hanging", "error" 500, or "garbage"."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if kind == "closed":
            listener.close()
        else:
            listener.listen(50)
            threading.Thread(target=_serve, args=(listener, kind), daemon=True).start()
        yield uri


def _serve(listener: socket.socket, kind: str) -> None:
    answers = {"error": b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops", "garbage": b"\x00\x01nonsense\r\n\r\n"}
    kept = []
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        kept.append(connection)
        if kind in answers:
            connection.recv(65536)
            connection.sendall(answers[kind])
            connection.close()
