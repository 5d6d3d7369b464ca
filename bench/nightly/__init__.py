"""One night of measurements: doctor, verify, the matrix, gate, report. Run with `python -m bench.nightly`.

`settings` is the command line, `opening` decides whether a night is new or goes on, `plan` has the steps (pure),
`steps` runs one, `night` runs all and keeps night.json, `history` holds the green nights, `worktree` another version of
the code, `machine` says where this runs, `alone` gates records without a base, `summary` is the Markdown for a job's
page.
"""
