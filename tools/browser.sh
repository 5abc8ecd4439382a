#!/usr/bin/env bash
# Browsers: Chromium's headless shell, in which tests take half the computing time, and Chromium for screenshots.
# Those on the PATH, else Debian's, else Playwright's own.
set -euo pipefail
if command -v chromium-headless-shell > /dev/null; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq chromium chromium-headless-shell fonts-noto-cjk > /dev/null && exit 0
fi
if command -v chromium > /dev/null; then exit 0; fi
.venv/bin/playwright install chromium
