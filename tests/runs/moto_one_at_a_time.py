"""An S3 server on loopback; run by the Python of `.venv-moto`, with the port to listen on.

moto looks at a condition and writes in two steps, with other requests in between. S3 does so in
one, so here requests are answered one at a time.
"""

import sys
import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

moto = DomainDispatcherApplication(create_backend_app)
one_at_a_time = threading.Lock()


def serve(environ, start_response):
    """Answer a request, whole, before the next one."""
    with one_at_a_time:
        return list(moto(environ, start_response))


run_simple("127.0.0.1", int(sys.argv[1]), serve, threaded=True)
