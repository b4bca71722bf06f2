"""From a request's bytes to its response's: admission, batches, deadlines. Knows no HTTP."""
