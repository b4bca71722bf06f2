"""Turns request bodies into response bodies: admission, batching, deadlines. Knows no HTTP."""
