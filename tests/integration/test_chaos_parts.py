"""The parts of chaos that touch the system: the proxy, the small disk, the search for what is left."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hltfarm.service.chaos.disk import SmallDisk
from hltfarm.service.chaos.leftovers import Footprints, Own
from hltfarm.service.chaos.proxy import Proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """Port of a server that sends back what it gets, on every connection."""
    server = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    connection.sendall(data)
            except OSError:
                return  # broken by the proxy

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # closed below
            threads.append(threading.Thread(target=answer, args=(connection,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    yield int(server.getsockname()[1])
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    acceptor.join()
    for thread in threads:
        thread.join()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5.0)


def test_a_proxy_forwards_stalls_and_goes_on(echo: int) -> None:
    with Proxy(echo) as proxy, connect(proxy) as connection:
        connection.sendall(b"one")
        assert connection.recv(10) == b"one"
        proxy.stall()
        connection.sendall(b"two")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(10)
        proxy.heal()
        connection.settimeout(5.0)
        assert connection.recv(10) == b"two"


def test_a_proxy_breaks_connections_and_takes_new_ones_again(echo: int) -> None:
    with Proxy(echo) as proxy:
        with connect(proxy) as connection:
            connection.sendall(b"one")
            assert connection.recv(10) == b"one"
            proxy.drop()
            assert ended(connection)
        with connect(proxy) as refused:
            assert ended(refused)
        proxy.heal()
        with connect(proxy) as connection:
            connection.sendall(b"again")
            assert connection.recv(10) == b"again"


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(10) == b""
    except ConnectionResetError:
        return True


def test_a_proxy_without_a_target_breaks_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Proxy(port) as proxy, connect(proxy) as connection:
        assert ended(connection)


def test_a_disk_fills_and_has_room_again(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk") as disk:
        if not disk.mounted:
            pytest.skip("mounting a file system of its own needs root; the limit that is used instead has its own test")
        (disk.folder / "before").write_bytes(bytes(1000))
        disk.fill([])
        with pytest.raises(OSError) as caught:
            (disk.folder / "after").write_bytes(bytes(1 << 20))
        assert caught.value.errno == errno.ENOSPC
        disk.free()
        (disk.folder / "after").write_bytes(bytes(1 << 20))
    assert not os.path.ismount(tmp_path / "disk")


WRITER = """
import sys
for line in sys.stdin:
    try:
        with open(sys.argv[1], "wb") as file:
            file.write(bytes(100000))
        print("written", flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""


def test_without_a_mount_the_files_of_the_writers_are_limited(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "file")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None

        def write() -> str:
            assert writer.stdin is not None
            assert writer.stdout is not None
            writer.stdin.write("\n")
            writer.stdin.flush()
            return writer.stdout.readline().strip()

        with SmallDisk(tmp_path / "disk", mount=False) as disk:
            assert write() == "written"
            disk.fill([writer.pid])
            assert write() == str(errno.EFBIG)
            disk.free()
            assert write() == "written"
        writer.stdin.close()


def test_what_is_left_is_found() -> None:
    footprints = Footprints()
    path = Path("/dev/shm") / f"hltfarm-test-{os.getpid()}"
    path.write_bytes(bytes(4096))
    code = f"import mmap,sys; f = open('{path}', 'r+b'); m = mmap.mmap(f.fileno(), 0); print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        footprints.look([process.pid])
        assert footprints.left(patience_s=0.0) == [f"process {process.pid} is left", f"{path} is left"]
        process.stdin.close()
        process.wait()
        assert footprints.left(patience_s=0.0) == [f"{path} is left"]
    path.unlink()
    assert footprints.left(patience_s=0.0) == []


def test_own_threads_and_descriptors() -> None:
    own, end = Own.now(), threading.Event()
    thread = threading.Thread(target=end.wait, name="forgotten")
    thread.start()
    with open(os.devnull):
        assert own.left() == ["thread forgotten is left", "1 descriptors are left open"]
    end.set()
    thread.join()
    assert own.left() == []
