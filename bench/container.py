"""The size of the image and the start of a container: `python -m bench.container IMAGE BASE`.

IMAGE is one that `make image` has built on BASE. Each time is taken from before the command of the engine to the first
answer of 200, or to its end, and so holds what the engine itself takes: that of an empty container stands beside it.
"""

import argparse
import http.client
import os
import statistics
import subprocess
import time

from rich.console import Console
from rich.table import Table

LOCKED = (
    *("--user", "10001:10001", "--read-only", "--tmpfs", "/tmp:size=64m", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--memory", "512m", "--pids-limit", "512"),
)

CPU = """import os
fields = open("/proc/1/stat").read().rpartition(")")[2].split()
print((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))"""
"""Prints what the container's first process has used, asked just after it is ready."""


def docker(*arguments: str) -> str:
    """Run one command of the engine and return what it printed."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("base")
    parser.add_argument("--times", type=int, default=7)
    given = parser.parse_args()
    size, base = (int(docker("inspect", "--format", "{{.Size}}", each)) for each in (given.image, given.base))
    load = os.getloadavg()[0]
    empty = [_empty(given.image) for _ in range(given.times)]
    measured = [_life(given.image) for _ in range(given.times)]
    table = Table("", "median", "from", "to")
    table.add_row("image beyond its base, MB (10^6)", f"{(size - base) / 1e6:.0f}", "", "")
    for name, values in (
        ("an empty container, s", empty),
        ("docker run to ready, s", [life[0] for life in measured]),
        ("docker stop of an idle one, s", [life[1] for life in measured]),
        ("memory of an idle one, MiB", [life[2] for life in measured]),
        ("processor time of it until ready, s", [life[3] for life in measured]),
    ):
        table.add_row(name, *(f"{each:.2f}" for each in (statistics.median(values), min(values), max(values))))
    console = Console()
    console.print(table)
    console.print(f"load before {load:.1f}, after {os.getloadavg()[0]:.1f}; {given.times} times each")


def _empty(image: str) -> float:
    began = time.perf_counter()
    docker("run", "--rm", "--network", "none", "--entrypoint", "true", image)
    return time.perf_counter() - began


def _life(image: str) -> tuple[float, float, float, float]:
    """Return the seconds to ready and to stop, the memory of a container that nobody asks, and its CPU until ready."""
    began = time.perf_counter()
    options = (*LOCKED, "--env", "STRANDLINE_DEMO_MODEL=scripted", "--publish", "127.0.0.1::8080")
    name = docker("run", "--detach", *options, image)
    try:
        port = int(docker("port", name, "8080/tcp").splitlines()[0].rpartition(":")[2])
        while not _ready(port):
            time.sleep(0.005)
        ready_s = time.perf_counter() - began
        cpu_s = float(docker("exec", name, "/opt/venv/bin/python", "-ISc", CPU))
        memory = _memory(name)
        began = time.perf_counter()
        docker("stop", name)
        return ready_s, time.perf_counter() - began, memory, cpu_s
    finally:
        docker("rm", "--force", "--volumes", name)


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _memory(name: str) -> float:
    """Return what `docker stats` shows: all memory of the container, without the cache of files."""
    shown = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", name).split()[0]
    number, unit = shown[:-3], shown[-3:]
    return float(number) * {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024}[unit]


if __name__ == "__main__":
    main()
