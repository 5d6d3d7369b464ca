"""One night of measurements: doctor, verify, the matrix, gate, report. Run with `python -m bench.nightly`."""
