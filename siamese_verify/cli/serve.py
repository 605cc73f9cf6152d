"""`siamese-verify serve`: the HTTP API and the web page."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from siamese_verify.cli.options import add_model_options, load_verifier
from siamese_verify.cli.user_errors import report_user_errors
from siamese_verify.errors import InputError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from siamese_verify.serving.api_keys import KeyFile
    from siamese_verify.serving.settings import Settings

REQUIRED_PACKAGES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `siamese-verify serve`."""
    parser.description = (
        "Serve the HTTP API and the web page. Comparing photos does not detect a printed photo or a screen held before "
        "the camera: give a --liveness hook where that matters."
    )
    add_model_options(parser)
    add = parser.add_argument
    add("--liveness", metavar="MODULE:FUNCTION", help="function that sees each photo and face, and may refuse it")
    add = parser.add_argument_group("address").add_argument
    add("--host", default="127.0.0.1", help="address to bind to (%(default)s); others than loopback need --keys")
    add("--port", type=int, default=8000, help="0 for a free one (%(default)s)")
    add("--allow-host", action="append", default=[], metavar="NAME", help="name in Host that the server answers")
    add("--root-path", default="", metavar="/PATH", help="path at which a proxy offers the server")
    add(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS[,...]",
        help="addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed",
    )
    add("--certificate", type=Path, help="PEM file, for HTTPS")
    add("--certificate-key", type=Path, help="PEM file of its key")
    add = parser.add_argument_group("gallery").add_argument
    add("--gallery", type=Path, metavar="FILE", help="to enroll and identify people; created if missing")
    add("--gallery-key", type=Path, metavar="KEYFILE", help="its key; by default that of the environment")
    add = parser.add_argument_group("API keys").add_argument
    add("--keys", type=Path, metavar="KEYFILE", help="hashes of the API keys that are accepted")
    add("--new-key", type=Path, metavar="KEYFILE", help="print a new key once, add its hash to this file, and end")
    add("--key-name", metavar="NAME", help="with --new-key: name of the key in the log")
    add(
        "--key-scopes",
        default="verify",
        metavar="SCOPES",
        help="with --new-key: verify, identify, enroll, read, delete, scores; separated by commas (%(default)s)",
    )
    add("--key-expires", default="never", metavar="DATE", help="with --new-key: first day without it, YYYY-MM-DD")
    add(
        "--allow-scores",
        action="store_true",
        help="without --keys, /v1/identify may return scores below the threshold; keys need the scope scores",
    )
    add = parser.add_argument_group("limits").add_argument
    add("--upload-mb", type=float, default=10.0, help="megabytes of a photo (%(default)s)")
    add("--megapixels", type=float, default=24.0, help="megapixels of a photo (%(default)s)")
    add("--rate", type=float, default=20.0, help="requests per second of a client, 0 for no limit (%(default)s)")
    add("--burst", type=int, default=40, help="requests of a client at once after a pause (%(default)s)")
    add("--in-flight", type=int, default=32, help="requests answered at a time, more get 503 (%(default)s)")
    add("--processes", type=int, metavar="N", help="serve in N processes, and restart one that ends or hangs")
    add("--workers", type=int, help="threads per process that detect faces; by default one per core")
    add("--batch", type=int, help="faces embedded together (32, on a GPU 256)")
    add("--batch-wait-ms", type=float, default=2.0, help="time that a face waits for others (%(default)s)")
    add("--body-seconds", type=float, default=30.0, help="time for an upload, then 408 (%(default)s)")
    add("--answer-seconds", type=float, default=30.0, help="time for an answer, then 503 (%(default)s)")
    add("--shutdown-seconds", type=float, default=10.0, help="time for requests in progress on SIGTERM (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C, or create an API key."""
    if options.new_key is not None:
        from siamese_verify.serving.api_keys import add_key

        print(add_key(options.new_key, options.key_name, options.key_scopes, options.key_expires))
        print(f"This key is shown once; {options.new_key} has its hash.", file=sys.stderr)
        return 0
    check_installed()
    from siamese_verify.serving.server import listen
    from siamese_verify.serving.settings import load_hook
    from siamese_verify.serving.supervisor import Supervisor

    settings = settings_from(options)
    if read_keys(options) is None and not settings.loopback:
        raise InputError(
            f"{settings.host} can be reached from other machines, and no API key is needed: create one with "
            "`siamese-verify serve --new-key keys.txt`, then start with --keys keys.txt."
        )
    if (options.certificate is None) != (options.certificate_key is None):
        raise InputError("HTTPS needs --certificate and --certificate-key: give both, or neither.")
    for path in (options.certificate, options.certificate_key):
        if path is not None and not path.is_file():
            raise InputError(f"There is no file {path}: give a certificate and its key as PEM files.")
    if options.processes is not None and options.processes < 1:
        raise InputError(f"--processes must be 1 or more, got {options.processes}.")
    if options.liveness:
        load_hook(options.liveness)
    listener = listen(settings)
    if options.processes is None:
        return serve_process(options, listener, announce)
    seconds = settings.shutdown_seconds + 5  # a process ends by itself before
    return Supervisor(serve_process, options, listener, options.processes, seconds, announce).run()


@report_user_errors  # as it is the main function of the supervisor's processes
def serve_process(options: argparse.Namespace, listener: socket.socket, ready: Callable[[str], None]) -> int:
    """Serve in this process.

    Args:
        options: checked options.
        listener: listening socket.
        ready: called with the URL once connections are accepted.
    """
    from siamese_verify.serving.app import create_app
    from siamese_verify.serving.server import run as run_server
    from siamese_verify.serving.settings import load_hook

    settings, keys = settings_from(options), read_keys(options)
    hook = load_hook(options.liveness) if options.liveness else None
    verifier = load_verifier(options, hook)
    gallery = None
    if options.gallery:
        from siamese_verify.gallery import Gallery

        gallery = Gallery.open(options.gallery, verifier, key=options.gallery_key)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if not settings.loopback and options.certificate is None:
        logging.warning("Without --certificate, keys and photos travel unencrypted: put a proxy with TLS before it.")
    if settings.trusted_proxies and keys is None:
        logging.warning("Without --keys, everybody whom the proxy lets through may use the server.")
    app = create_app(verifier, settings, keys=keys, gallery=gallery, liveness=hook is not None)
    try:
        return run_server(
            app,
            settings,
            listener,
            certificate=options.certificate,
            certificate_key=options.certificate_key,
            ready=ready,
            supervised=options.processes is not None,
        )
    finally:
        if gallery is not None:
            gallery.close()


def announce(url: str) -> None:
    """Print the URL for people and for programs that wait for it."""
    print(f"Siamese Verify listens on {url}", flush=True)


def read_keys(options: argparse.Namespace) -> KeyFile | None:
    """API keys that are accepted; None if none is needed."""
    from siamese_verify.serving.api_keys import KeyFile

    return KeyFile.read(options.keys) if options.keys else None


def settings_from(options: argparse.Namespace) -> Settings:
    """Settings from options.

    Raises:
        InputError: if one is invalid.
    """
    from siamese_verify.serving.settings import MEGABYTE, Settings

    return Settings(
        host=options.host,
        port=options.port,
        hosts=tuple(options.allow_host),
        photo_bytes=int(options.upload_mb * MEGABYTE),
        photo_pixels=int(options.megapixels * 1e6),
        rate=options.rate,
        burst=options.burst,
        in_flight=options.in_flight,
        batch=options.batch,
        batch_milliseconds=options.batch_wait_ms,
        body_seconds=options.body_seconds,
        answer_seconds=options.answer_seconds,
        allow_scores=options.allow_scores,
        shutdown_seconds=options.shutdown_seconds,
        root_path=options.root_path.rstrip("/"),
        trusted_proxies=tuple(proxy for given in options.trusted_proxy for proxy in given.split(",")),
        **({"workers": options.workers} if options.workers is not None else {}),
    )


def check_installed() -> None:
    """Raise InputError if a package that serving needs is missing."""
    from importlib.util import find_spec

    missing = [package for module, package in REQUIRED_PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise InputError(f"Serving needs {', '.join(missing)}: pip install 'siamese-verify[serve]'.")
