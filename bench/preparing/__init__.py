"""Published data sets: checked, cropped and written with a manifest."""
