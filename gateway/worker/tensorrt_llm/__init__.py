"""TensorRT-LLM in the worker's process: the backend, the facts it is built on, and the check of an installation."""
