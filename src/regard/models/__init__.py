"""Whole systems: `regard.models.vqa` answers questions about pictures, `regard.models.fusion` joins modalities."""
