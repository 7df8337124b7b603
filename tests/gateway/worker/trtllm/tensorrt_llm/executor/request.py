"""A request's adapter."""

from pathlib import Path
from typing import Any

from tensorrt_llm import record

_Base: Any = record("tensorrt_llm.executor.request.LoRARequest")


class LoRARequest(_Base):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.lora_path is not None and not Path(self.lora_path).is_dir() or self.lora_path == "":
            raise ValueError(f"lora_path ({self.lora_path}) does not exist.")
