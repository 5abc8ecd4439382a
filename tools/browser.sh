#!/usr/bin/env bash
# Browsers: Chromium's headless shell, in which tests take half the computing time, and Chromium for screenshots.
# Those on the PATH, else Debian's, else Playwright's own.
set -euo pipefail

debian() {  # debian PACKAGE…: fails where there is no apt, no such package or no network
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" fonts-noto-cjk > /dev/null
}

if command -v chromium-headless-shell > /dev/null; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null && apt-get update -qq; then
  if debian chromium chromium-headless-shell || debian chromium; then exit 0; fi
fi
if command -v chromium > /dev/null; then exit 0; fi
.venv/bin/playwright install chromium
