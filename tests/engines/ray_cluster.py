"""A Ray cluster of two nodes on this machine's loopback, with token authentication."""

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

HEAD = "127.0.0.2"
ADDRESSES = {"alpha": HEAD, "beta": "127.0.0.3"}
START_S = 150.0


def environment(folder):
    """What every process of the cluster needs, LMDyno's own one included."""
    return {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "LMDYNO_RAY_NODE_IP": HEAD,
    }


class RayNode:
    """One `ray start --block` with all that it starts, in a process group of its own."""

    def __init__(self, cluster, name):
        self.cluster = cluster
        self.name = name
        self.process = None

    def start(self):
        ray = [sys.executable, "-m", "ray.scripts.scripts"]
        common = [f"--node-ip-address={ADDRESSES[self.name]}", f"--node-name={self.name}"]
        common += ["--num-cpus=2", "--object-store-memory=80000000", "--block"]
        if self.name == "alpha":
            where = ["--head", f"--port={self.cluster.port}", "--include-dashboard=false"]
            where += [f"--temp-dir={self.cluster.folder / 'r'}"]
        else:
            where = [f"--address={self.cluster.address}"]
        log = self.cluster.folder / f"{self.name}.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*ray, "start", *where, *common],
                env=environment(self.cluster.folder),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while b"Ray runtime started" not in log.read_bytes():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
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
        workers = psutil.Process(self.process.pid).children(recursive=True)
        engines = {child.pid for child in workers if os.getsid(child.pid) != self.process.pid}
        os.killpg(self.process.pid, signal.SIGKILL)
        for child in workers:
            if child.pid not in engines and child.is_running():
                child.kill()
        self.process.wait()
        self.process = None
        (self.cluster.folder / f"{self.name}.log").write_bytes(b"")


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

    def start(self):
        for node in self.nodes.values():
            node.start()

    def close(self):
        for node in reversed(self.nodes.values()):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
