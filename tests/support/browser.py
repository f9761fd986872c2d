"""A page looked at in Chromium, and a server that takes note of what it is asked for."""

import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


@contextmanager
def counting():
    """A server's address, and the paths that it was asked for."""
    paths = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", paths
    finally:
        server.shutdown()
        server.server_close()


def hostile(url):
    """Texts that run something or load something from the address where they are read as markup."""
    image = f'<img src="{url}/image.png" onerror="document.title=\'owned\'">'
    script = f'<script>document.title="owned";fetch("{url}/script")</script>{image}'
    return (
        f"</code></pre></td></table>\"'>{script}",
        f"```\n{script}\n````\n~~~\n{script}\n~~~",
        f"\n\n![x]({url}/markdown.png)\n\n{script}\n\n| a | b |\n| - | - |\n| {image} | `` ` {image} |",
        f'--- <svg onload="document.title=\'owned\'"><iframe src="{url}/frame"></iframe> ]]> {script} \x1b[2J',
    )


def looked_at(page, profile):
    """The DOM of a page after its scripts have run."""
    command = ["chromium", "--headless", *_QUIET, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
