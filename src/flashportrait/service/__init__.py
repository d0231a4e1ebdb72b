"""Animations over HTTP: jobs are posted, wait on disk, are run by worker processes, and are fetched."""
