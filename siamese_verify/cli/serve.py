"""`siamese-verify serve`: the HTTP API and the web page."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from siamese_verify.cli.options import add_model_options, load_verifier
from siamese_verify.errors import InputError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from siamese_verify.gallery import Gallery
    from siamese_verify.serving.api_keys import KeyFile
    from siamese_verify.serving.settings import Settings
    from siamese_verify.verification import Verifier

NEEDS = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}


def serve_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.description = (
        "Serve the HTTP API and the web page. Comparing photos does not detect a printed photo or a screen held before "
        "the camera: give a --liveness hook where that matters."
    )
    add_model_options(parser)
    parser.add_argument(
        "--liveness", metavar="MODULE:FUNCTION", help="hook that sees each photo and face first, and may refuse it"
    )
    where = parser.add_argument_group("where")
    add = where.add_argument
    add("--host", default="127.0.0.1", help="address to bind to (%(default)s); others than loopback need --keys")
    add("--port", type=int, default=8000, help="0 for a free one (%(default)s)")
    add("--allow-host", action="append", default=[], metavar="NAME", help="name that the server answers to in Host")
    add("--root-path", default="", metavar="/PATH", help="under which a proxy offers the server")
    add(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS[,...]",
        help="addresses or networks of proxies that are believed in who the client is, and which Host it asked for",
    )
    add(
        "--proxy-header",
        choices=("x-forwarded", "forwarded"),
        default="x-forwarded",
        help="in which they say it: X-Forwarded-For, -Host and -Proto, or Forwarded of RFC 7239 (%(default)s)",
    )
    add("--certificate", type=Path, help="PEM file, for HTTPS")
    add("--certificate-key", type=Path, help="PEM file of its key")
    people = parser.add_argument_group("people")
    add = people.add_argument
    add("--gallery", type=Path, metavar="FILE", help="to enrol people in and look for them; made if it is missing")
    add("--gallery-key", type=Path, metavar="KEYFILE", help="its key; by default that of the environment")
    keys = parser.add_argument_group("who")
    add = keys.add_argument
    add("--keys", type=Path, metavar="KEYFILE", help="hashes of the API keys that are let in")
    add("--new-key", type=Path, metavar="KEYFILE", help="print a new key once, keep its hash in this file, and end")
    add("--key-name", metavar="NAME", help="with --new-key: what the log calls the key")
    add(
        "--key-scopes",
        default="verify",
        metavar="SCOPES",
        help="with --new-key: verify, identify, enroll, read, delete and scores, with commas between (%(default)s)",
    )
    add("--key-expires", default="never", metavar="DATE", help="with --new-key: first day without it, YYYY-MM-DD")
    add(
        "--allow-scores",
        action="store_true",
        help="without --keys: /v1/identify may tell the scores of people who "
        "were not found; with them, keys of the scope scores may",
    )
    limits = parser.add_argument_group("limits")
    add = limits.add_argument
    add("--upload-mb", type=float, default=10.0, help="most of one photo (%(default)s)")
    add("--megapixels", type=float, default=24.0, help="most of one photo (%(default)s)")
    add(
        "--rate", type=float, default=20.0, help="requests a second of one key or address, 0 for no limit (%(default)s)"
    )
    add("--burst", type=int, default=40, help="requests at once after a pause (%(default)s)")
    add("--in-flight", type=int, default=32, help="requests answered at a time, more get 503 (%(default)s)")
    add("--processes", type=int, metavar="N", help="serve in N processes, and replace one that ends or hangs")
    add("--workers", type=int, help="threads of a process that look for faces; one per core by default")
    add("--batch", type=int, default=32, help="most faces embedded together (%(default)s)")
    add("--batch-wait-ms", type=float, default=2.0, help="that a face waits for others (%(default)s)")
    add("--body-seconds", type=float, default=30.0, help="for an upload, then 408 (%(default)s)")
    add("--answer-seconds", type=float, default=30.0, help="for an answer, then 503 (%(default)s)")
    add("--shutdown-seconds", type=float, default=10.0, help="for requests in flight on SIGTERM (%(default)s)")


def serve(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    if options.new_key is not None:
        return new_key(options)
    check_installed()
    from siamese_verify.serving.server import listen
    from siamese_verify.serving.settings import load_hook
    from siamese_verify.serving.supervisor import Supervisor

    settings = settings_of(options)
    if open_keys(options) is None and not settings.loopback:
        raise InputError(
            f"{settings.host} can be reached from other machines, and nobody has to show a key: make one with "
            "`siamese-verify serve --new-key keys.txt`, then start with --keys keys.txt."
        )
    if (options.certificate is None) != (options.certificate_key is None):
        raise InputError("HTTPS takes --certificate and --certificate-key: give both, or neither.")
    for path in (options.certificate, options.certificate_key):
        if path is not None and not path.is_file():
            raise InputError(f"There is no file {path}: give a certificate and its key as PEM files.")
    if options.processes is not None and options.processes < 1:
        raise InputError(f"--processes is 1 or more, got {options.processes}.")
    if options.liveness:
        load_hook(options.liveness)
    place = listen(settings)
    if options.processes is None:
        return serve_here(options, place, say_ready)
    seconds = settings.shutdown_seconds + 5  # its own end comes before
    return Supervisor(serve_here, options, place, options.processes, seconds, say_ready).run()


def serve_here(options: argparse.Namespace, place: socket.socket, ready: Callable[[str], None]) -> int:
    """Serve in this process, on a socket that is there.

    Args:
        options: that were checked.
        place: the socket.
        ready: is told the address once connections are taken.
    """
    from siamese_verify.serving.app import create_app
    from siamese_verify.serving.server import run
    from siamese_verify.serving.settings import load_hook

    settings = settings_of(options)
    hook = load_hook(options.liveness) if options.liveness else None
    verifier = load_verifier(options, hook)
    gallery = open_gallery(options, verifier) if options.gallery else None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if not settings.loopback and options.certificate is None:
        logging.warning("Without --certificate, keys and photos travel unencrypted: put a proxy with TLS before it.")
    keys = open_keys(options)
    if settings.trusted_proxies and keys is None:
        logging.warning("Without --keys, everybody whom the proxy lets through may use the server.")
    app = create_app(verifier, settings, keys=keys, gallery=gallery, liveness=hook is not None)
    try:
        return run(
            app,
            settings,
            place,
            certificate=options.certificate,
            certificate_key=options.certificate_key,
            ready=ready,
            replaced=options.processes is not None,
        )
    finally:
        if gallery is not None:
            gallery.close()


def say_ready(url: str) -> None:
    """Print where the server is, for people and for programs that wait for it."""
    print(f"Siamese Verify listens on {url}", flush=True)


def open_keys(options: argparse.Namespace) -> KeyFile | None:
    """Read the keys that are asked for."""
    from siamese_verify.serving.api_keys import KeyFile

    return KeyFile.read(options.keys) if options.keys else None


def open_gallery(options: argparse.Namespace, verifier: Verifier) -> Gallery:
    """Open the gallery that is asked for."""
    from siamese_verify.gallery import Gallery

    return Gallery.open(options.gallery, verifier, key=options.gallery_key)


def settings_of(options: argparse.Namespace) -> Settings:
    """Read the limits.

    Raises:
        InputError: one is none.
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
        proxy_header=options.proxy_header,
        **({"workers": options.workers} if options.workers is not None else {}),
    )


def new_key(options: argparse.Namespace) -> int:
    """Make a key and print it once."""
    from siamese_verify.serving.api_keys import add_key

    print(add_key(options.new_key, options.key_name, options.key_scopes, options.key_expires))
    print(f"This key is shown once; {options.new_key} keeps its hash.", file=sys.stderr)
    return 0


def check_installed() -> None:
    """Say in a sentence what is missing.

    Raises:
        InputError: a package that serving needs is not installed.
    """
    from importlib.util import find_spec

    missing = [package for module, package in NEEDS.items() if find_spec(module) is None]
    if missing:
        raise InputError(f"Serving needs {', '.join(missing)}: pip install 'siamese-verify[serve]'.")
