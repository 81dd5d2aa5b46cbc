#!/bin/sh
# Test files, in the testbed: as scripts/test runs them, with a report for the runner.
# Emulation is ten times slower and more: so is the limit for a file.
exec node --test --test-concurrency=2 --test-timeout=1800000 \
  --test-reporter=tap --test-reporter-destination=stdout \
  --test-reporter=./scripts/test-report.mjs --test-reporter-destination="$ISOPOD_RESULTS/report" "$@"
