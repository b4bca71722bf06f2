"""What is recorded of requests: metrics, access log, traces. Never delays one."""
