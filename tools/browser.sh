#!/usr/bin/env bash
# A Chromium for the browser tests: the one on the PATH, else Debian's, else Playwright's own.
set -euo pipefail
if command -v chromium > /dev/null; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium fonts-noto-cjk > /dev/null
else
  .venv/bin/playwright install chromium
fi
