"""Published checkpoints: safe reading, exact conversion, safetensors with a card."""
