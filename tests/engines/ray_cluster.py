"""A Ray cluster of two nodes on this machine's loopback, with token authentication."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

# Addresses of this test process's own, so that clusters beside each other share no port.
_NET = f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250}"
HEAD = f"{_NET}.2"
ADDRESSES = {"alpha": HEAD, "beta": f"{_NET}.3"}
START_S = 300.0


def environment(folder):
    """What every process of the cluster needs, LMDyno's own one included."""
    return {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        # No workers in advance: agents are all that runs.
        "RAY_prestart_worker_first_driver": "0",
        "LMDYNO_RAY_NODE_IP": HEAD,
    }


def processes_of(folder):
    """All whose command lines name something in the folder."""
    arguments = ((process, process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return [process for process, words in arguments if any(str(folder) in word for word in words)]


class RayNode:
    """One `ray start --block` with all that it starts, in a process group of its own."""

    def __init__(self, cluster, name):
        self.cluster = cluster
        self.name = name
        self.process = None
        self.log = cluster.folder / f"{name}.log"

    def start(self):
        """Start it and wait until it runs."""
        self.begin()
        self.wait_until_started()

    def begin(self):
        ray = [sys.executable, "-m", "ray.scripts.scripts"]
        common = [f"--node-ip-address={ADDRESSES[self.name]}", f"--node-name={self.name}"]
        common += ["--num-cpus=1", "--object-store-memory=80000000", "--block"]
        # What LMDyno doesn't use: each is a Python process that takes seconds to start.
        common += ["--include-log-monitor=false"]
        if self.name == "alpha":
            where = ["--head", f"--port={self.cluster.port}", "--include-dashboard=false"]
            where += ["--no-monitor"]
            where += [f"--temp-dir={self.cluster.folder / 'r'}"]
        else:
            where = [f"--address={self.cluster.address}"]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*ray, "start", *where, *common],
                env=environment(self.cluster.folder),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_until_started(self):
        self._wait(lambda: b"Ray runtime started" in self.log.read_bytes())

    def wait_until_joinable(self):
        """Of the head: another node can join before its own raylet runs."""
        self._wait(self.cluster.is_listening)

    def _wait(self, condition):
        deadline = time.monotonic() + START_S
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def raylet(self):
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in children if child.name() == "raylet")

    def agent(self):
        """LMDyno's agent there; None before it runs."""
        for child in self.raylet().children():
            if "RayAgent" in " ".join(child.cmdline()):
                return child
        return None

    def kill(self):
        """End it at once with everything that Ray has started; engines are in sessions of their own."""
        if self.process is None:
            return
        try:
            workers = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:  # it has ended by itself, which its log explains
            workers = []
        engines = {child.pid for child in workers if os.getsid(child.pid) != self.process.pid}
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for child in workers:
            if child.pid not in engines and child.is_running():
                child.kill()
        self.process.wait()
        self.process = None
        self.log.write_bytes(b"")


class RayCluster:
    """The nodes alpha, the head, and beta."""

    def __init__(self):
        # Ray's sockets lie below, and a socket's path has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        (self.folder / "token").write_text(secrets.token_hex(32))
        with socket.socket() as probe:
            probe.bind((HEAD, 0))
            self.port = probe.getsockname()[1]
        self.nodes = {name: RayNode(self, name) for name in ADDRESSES}

    @property
    def address(self):
        return f"{HEAD}:{self.port}"

    def is_listening(self):
        with socket.socket() as probe:
            return probe.connect_ex((HEAD, self.port)) == 0

    def start(self):
        """Both nodes; beta begins while the head is still starting."""
        alpha, beta = self.nodes.values()
        alpha.begin()
        alpha.wait_until_joinable()
        beta.begin()
        alpha.wait_until_started()
        beta.wait_until_started()

    def close(self):
        """Ends it all; fails if a process is left."""
        for node in reversed(self.nodes.values()):
            node.kill()
        _, left = psutil.wait_procs(processes_of(self.folder), timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not left
