"""How much memory a device has at hand."""

import os
from pathlib import Path

import torch


def available_memory(device: torch.device) -> int:
    """Bytes that can be allocated now: free memory on CUDA, on the host what is free or can be freed."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
