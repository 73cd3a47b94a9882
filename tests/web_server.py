"""A web server on the loopback that misbehaves by a script."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler"], None]


@dataclass
class Server:
    """What the server does with its requests, in order (the last answer goes on), and which Range each one had."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        script: Server = self.server.script
        script.ranges.append(self.headers.get("Range"))
        answers = script.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *_):
        pass

    def reply(self, status: int, body: bytes = b"", announced: int | None = None, **headers: str):
        """Send an answer; one announced longer than it is ends in a cut connection."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


@contextmanager
def web_server() -> Iterator[Server]:
    """Serve on a free port of the loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.script = Server(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def serve(content: bytes, *, cut_after: int | None = None, ignore_range: bool = False) -> Answer:
    """Answer as a good server does, honouring Range; cut the connection after `cut_after` bytes."""

    def answer(handler: Handler) -> None:
        byte_range = handler.headers.get("Range")
        if byte_range is None or ignore_range:
            handler.reply(200, content[:cut_after], len(content))
            return
        start = int(byte_range.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            handler.reply(416, Content_Range=f"bytes */{len(content)}")
            return
        rest = content[start:]
        handler.reply(
            206, rest[:cut_after], len(rest), Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}"
        )

    return answer
