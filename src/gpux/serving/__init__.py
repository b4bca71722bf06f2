"""Turns request bodies into response bodies: admission, batching, deadlines. Does not know HTTP."""
