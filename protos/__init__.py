"""The contract between gateway and control plane: protobuf messages and shared rules."""
