#!/usr/bin/env bash
# Keep one issue about the nightly: opened when it is red, updated while it stays red, closed when it is green again.
#
# usage: nightly-issue.sh SUMMARY.md
# RESULT is the night's result (success, failure, cancelled), RUN_URL its page; GH_TOKEN and GH_REPO are gh's.
set -euo pipefail
: "${RESULT:?}" "${RUN_URL:?}"
label=nightly-red
title="The nightly GPU benchmark is red"

# Only an issue that this workflow opened: anybody may give theirs the same title.
number=$(gh issue list --label "$label" --state open --app github-actions --limit 1 \
  --json number --jq '.[0].number // empty')

if [ "$RESULT" = success ]; then
  if [ -n "$number" ]; then
    gh issue close "$number" --comment "Green again: $RUN_URL"
  fi
  exit 0
fi

body=$(mktemp)
trap 'rm -f "$body"' EXIT
printf 'Result: %s. Log, report and records: %s\n\n' "$RESULT" "$RUN_URL" > "$body"
if [ -f "${1:?}" ]; then
  # GitHub takes 65,536 characters.
  python3 -X utf8 -c 'import sys; print(open(sys.argv[1], errors="replace").read()[:60_000])' "$1" >> "$body"
else
  echo "The night left no summary: it was not installed, did not begin or was cut off." >> "$body"
fi

if [ -n "$number" ]; then
  gh issue comment "$number" --body-file "$body"
else
  gh label create "$label" --description "Opened by the nightly workflow" --color B60205 --force
  gh issue create --title "$title" --label "$label" --body-file "$body"
fi
