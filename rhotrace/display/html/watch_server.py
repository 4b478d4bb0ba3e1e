"""``watch --web``: the same view as a web page on this machine, which reloads while the run trains."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rhotrace.analysis.transient.live_follower import TRAINING, Follower, Glimpse
from rhotrace.display.figures.runs import watch_figure
from rhotrace.display.html.renderer import embedded, rendered
from rhotrace.display.pages.watch import words
from rhotrace.errors import RhoTraceError

HOST = "127.0.0.1"
AT_ONCE = 16
PATIENCE = 10.0  # seconds for a browser to send its request and to take the answer


class _Page:
    """The page of a run, drawn again when there are new steps; several browsers may ask at once."""

    def __init__(self, follower: Follower, every: float) -> None:
        self._follower, self._every = follower, every
        self._lock = threading.Lock()
        self._shown: tuple[str, int, str] | None = None
        self._html = b""

    def html(self) -> bytes:
        """The current page."""
        with self._lock:
            glimpse = self._follower.look()
            now = glimpse.run, glimpse.steps, glimpse.state
            if now != self._shown:
                self._html, self._shown = self._drawn(glimpse), now
            return self._html

    def _drawn(self, glimpse: Glimpse) -> bytes:
        picture = None
        if glimpse.steps > 1:
            passed = [T for T in glimpse.T if T > 0]
            picture = embedded(lambda path: watch_figure(glimpse.curves, passed, path))
        page = rendered(
            "watch.html.j2",
            name=glimpse.path.name,
            words=words(glimpse),
            steps=glimpse.steps,
            planned=glimpse.planned_steps or max(1, glimpse.steps),
            again=math.ceil(max(self._every, 1.0)) if glimpse.state == TRAINING else 0,
            picture=picture,
        )
        return page.encode(errors="replace")  # a file name may contain bytes that are not text


class _Server(ThreadingHTTPServer):
    """A thread for each request, of which some run at once; the others wait to be accepted.

    Ctrl-C leaves the threads behind, which are daemons.
    """

    request_queue_size = 1024  # the system may allow fewer
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.Semaphore(AT_ONCE)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base class has it
        """Waits for a free place, then starts the thread."""
        self._free.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread has started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base class has it
        """Answers, and frees the place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base class has it
        """Ignores a browser that disconnected before the answer, or did not take it in time."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def serve(follower: Follower, port: int, *, every: float, announce: Callable[[str], None]) -> None:
    """Serves the page of a run to this machine's browsers until Ctrl-C.

    Args:
        follower: of the run.
        port: to listen on; 0 takes a free one.
        every: seconds between reloads.
        announce: called with the page's address.

    Raises:
        RhoTraceError: the port is not available, or the run cannot be read.
    """
    page = _Page(follower, every)
    page.html()  # a run that cannot be read is reported here, not in the browser

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE

        def do_GET(self) -> None:
            if self.path != "/" or self.headers.get("Host") not in hosts:
                self.send_error(404)
                return
            try:
                content, kind, status = page.html(), "text/html", 200
            except RhoTraceError as problem:  # the run was removed meanwhile
                content, kind, status = str(problem).encode(), "text/plain", 503
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *words: object) -> None:  # noqa: A002 - as the base class names it
            """Says nothing."""

    try:
        server = _Server((HOST, port), Handler)
    except OSError as problem:
        raise RhoTraceError(f"--port: {port} is not available ({problem.strerror}); choose another, or 0") from None
    here = [f":{server.server_port}", *([""] if server.server_port == 80 else [])]  # browsers leave out :80
    hosts = {name + end for name in (HOST, "localhost") for end in here}
    with server:
        announce(f"http://{HOST}:{server.server_port}/")
        server.serve_forever(poll_interval=0.2)
