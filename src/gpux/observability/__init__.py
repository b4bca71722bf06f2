"""Metrics, access log and traces of requests. Never delays a request."""
