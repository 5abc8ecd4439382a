"""Starts LMDyno in replay mode, as an app on OpenXLab: `python app.py`, or `streamlit run app.py`.

LMDYNO_PUBLIC_HOST is the app's public name; without it every name is accepted, since the platform's proxy is
the only way in.
"""

import os
import sys
from pathlib import Path

PORT = "7860"


def main() -> None:
    os.chdir(Path(__file__).resolve().parent)
    public = os.environ.get("LMDYNO_PUBLIC_HOST", "*")
    environment = {
        "LMDYNO_MODE": "replay",
        "STREAMLIT_SERVER_ADDRESS": "0.0.0.0",
        "STREAMLIT_SERVER_PORT": os.environ.get("PORT", PORT),
        "STREAMLIT_SERVER_ALLOWED_HOSTS": f"{public} localhost 127.0.0.1",
    }
    command = [sys.executable, "-m", "streamlit", "run", "streamlit_app.py"]
    os.execve(sys.executable, command, {**os.environ, **environment})


if __name__ == "__main__":
    main()
