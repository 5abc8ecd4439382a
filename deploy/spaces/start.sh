#!/bin/sh
# Starts the replay on PORT (7860). SPACE_HOST is the Space's public name, which the platform sets.
cd "$(dirname "$0")" || exit 1
export LMDYNO_MODE=replay
export STREAMLIT_SERVER_ADDRESS=0.0.0.0
export STREAMLIT_SERVER_PORT="${PORT:-7860}"
export STREAMLIT_SERVER_ALLOWED_HOSTS="${SPACE_HOST:-localhost} localhost 127.0.0.1"
exec python -m streamlit run streamlit_app.py
