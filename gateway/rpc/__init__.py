"""gRPC at the edge: messages in and out, statuses, and the fronts that carry them."""
