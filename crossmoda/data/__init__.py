"""Scans on disk: challenge layouts, datalists, checks, and volumes read and written with their geometry intact."""
