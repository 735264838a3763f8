#!/usr/bin/env bash
# Builds the kernels and measures each against the machine's own peaks:
#
#   benchmarks/kernels.sh [--threads N] [--seconds S] [--peaks]
set -euo pipefail
cd "$(dirname "$0")/.."
cmake --preset benchmarks >/dev/null
cmake --build --preset benchmarks >/dev/null
exec build/benchmarks/benchmarks/kernels "$@"
