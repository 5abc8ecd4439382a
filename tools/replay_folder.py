"""Write a folder that can be pushed as it is to Hugging Face Spaces or OpenXLab: LMDyno in replay mode.

    python tools/replay_folder.py spaces /tmp/space [--recording FILE …]

It holds the code that the replay needs, the recordings, `requirements-replay.txt` as `requirements.txt`, and
the platform's metadata and start script from `deploy/`. It holds no engine, no weights and no tests.
"""

import argparse
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLATFORMS = ("spaces", "openxlab")
PARTS = ("core/", "pages/", "assets/", "streamlit_app.py", ".streamlit/config.toml", "LICENSE")
LEFT_OUT = ("assets/scenes-llava/",)
"""The demo vision model's weights."""


def write(platform: str, target: Path, recordings: Sequence[Path] = ()) -> list[Path]:
    """Fill the folder, which must be new or empty; returns its files.

    `recordings` take the place of those that come with LMDyno.
    """
    if target.exists() and any(target.iterdir()):
        raise SystemExit(f"{target} is not empty")
    for name in tracked():
        if name.startswith(PARTS) and not name.startswith(LEFT_OUT):
            copy(ROOT / name, target / name)
    copy(ROOT / "requirements-replay.txt", target / "requirements.txt")
    for file in (ROOT / "deploy" / platform).iterdir():
        copy(file, target / file.name)
    if recordings:
        folder = target / "assets" / "recording"
        shutil.rmtree(folder, ignore_errors=True)
        for file in recordings:
            copy(file, folder / file.name)
    return sorted(path for path in target.rglob("*") if path.is_file())


def tracked() -> list[str]:
    """The names of the repository's own files."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("platform", choices=PLATFORMS)
    parser.add_argument("target", type=Path)
    parser.add_argument("--recording", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    files = write(arguments.platform, arguments.target, arguments.recording)
    size_bytes = sum(file.stat().st_size for file in files)
    print(f"{arguments.target}: {len(files)} files, {size_bytes / 1e6:.1f} MB")
    if not any((arguments.target / "assets" / "recording").glob("*.json.xz")):
        print("It holds no recording yet: add one with --recording FILE.")


if __name__ == "__main__":
    main()
