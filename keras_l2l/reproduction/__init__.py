"""What made the presets and the figures of the paper."""
