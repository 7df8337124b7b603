"""The engine worker: one process that owns a device, its models and the queue in front of them."""
