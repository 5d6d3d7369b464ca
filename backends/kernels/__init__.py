"""Operators written for the networks' hot pieces, registered with torch.library."""
