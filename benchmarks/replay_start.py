"""How long the replay takes from nothing to its first page, in an environment with only what it declares.

    python benchmarks/replay_start.py [--recording FILE] [--platform spaces]

Writes the folder that would be pushed, installs its requirements.txt into a new environment, starts it with
the platform's own start script, and opens the page in Chromium. Prints seconds and what was checked.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import replay_folder  # noqa: E402

PORT = "17860"
ENGINES = ("torch", "transformers", "lmdeploy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recording", type=Path, action="append", default=[])
    parser.add_argument("--platform", choices=replay_folder.PLATFORMS, default="spaces")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    figures: dict[str, object] = {"platform": arguments.platform}
    with tempfile.TemporaryDirectory(prefix="lmdyno-replay-") as name:
        folder, environment = Path(name) / "app", Path(name) / "venv"
        files = replay_folder.write(arguments.platform, folder, arguments.recording)
        figures["folder_mb"] = round(sum(file.stat().st_size for file in files) / 1e6, 1)
        began = time.perf_counter()
        uv = str(Path(sys.executable).parent / "uv")
        python = environment / "bin" / "python"
        for command in (
            [uv, "venv", "--quiet", "--python", sys.executable, str(environment)],
            [
                *(uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)),
                *("--requirement", str(folder / "requirements.txt")),
            ],
            [str(python), "-m", "compileall", "-q", str(folder / "core"), str(folder / "pages")],
        ):
            subprocess.run(command, check=True)
        figures["install_s"] = round(time.perf_counter() - began, 1)
        figures["engines_installed"] = [
            engine
            for engine in ENGINES
            if subprocess.run([str(python), "-c", f"import {engine}"], capture_output=True).returncode == 0
        ]
        figures |= started(folder, environment, arguments)
    print(json.dumps(figures))


def started(folder: Path, environment: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Start it as the platform does, and look at its first page."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LMDYNO", "STREAMLIT"))}
    path = f"{environment / 'bin'}{os.pathsep}{kept['PATH']}"
    script = {"spaces": ["sh", "start.sh"], "openxlab": ["python", "app.py"]}[arguments.platform]
    began = time.perf_counter()
    server = subprocess.Popen(
        script,
        cwd=folder,
        env={**kept, "PATH": path, "PORT": PORT, "HOME": str(folder.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not healthy():
            if server.poll() is not None:
                raise SystemExit("the server ended before it was healthy")
            time.sleep(0.05)
        server_s = time.perf_counter() - began
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
            page = browser.new_page()
            opened = time.perf_counter()
            page.goto(f"http://127.0.0.1:{PORT}/")
            page.get_by_role("button", name="Play", exact=True).wait_for(timeout=60_000)
            now = time.perf_counter()
            browser.close()
        return {
            "server_s": round(server_s, 2),
            "browser_s": round(now - opened, 2),
            "server_and_page_s": round(server_s + now - opened, 2),
        }
    finally:
        server.terminate()
        server.wait(10)


def healthy() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/_stcore/health", timeout=1) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    main()
