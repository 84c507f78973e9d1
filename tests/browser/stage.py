"""A gateway that puts a stage before all paths, as API Gateway does."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STAGE = "/prod"
PASSED_ON = ("authorization", "content-type", "idempotency-key", "if-none-match", "accept")
OWN = ("content-length", "transfer-encoding", "connection", "date", "server")


@contextmanager
def behind_stage(port: int) -> Iterator[str]:
    """The address of the service at `port` as seen through a stage. Nothing is beside the stage."""

    class Gateway(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if not self.path.startswith(f"{STAGE}/"):
                self.send_error(403)
                return
            headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
            service = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            service.request(self.command, self.path.removeprefix(STAGE), body or None, headers)
            answer = service.getresponse()
            content = answer.read()
            service.close()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in OWN:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_DELETE = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{STAGE}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
